from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data as photographs

from data_engine.caption_config import HallucinationConfig
from data_engine.captioning.chat import open_chat_model
from data_engine.hallucination import DsgFigures, Verdict, dsg_figures
from data_engine.hallucination.checker import (
    CaptionedFrames,
    HallucinationChecker,
    make_checker,
)
from data_engine.hallucination.embedded import EmbeddedJudge, crops
from data_engine.hallucination.nouns import class_indices, nouns_in
from data_engine.scores.classifier import ImageNetClassifier, imagenet_labels
from tests.photographs import sample_photo
from tests.videos import write_video

NUM_FRAMES = 6
TRUE_CAPTIONS = {
    "cat": "A striped cat with long whiskers looks up. It moves its ears.",
    "coffee": "A cup of coffee stands on a saucer beside a spoon. The camera pans.",
    "camera": "A man in a long coat looks through a camera on a tripod.",
    "palace": "A Chinese temple with curved roofs stands above a lake.",
}
SWAPS = {"cat": "elephant", "coffee": "lemonade in a teapot", "tripod": "zebra", "temple": "guitar"}


def photo(name: str) -> NDArray[np.uint8]:
    if name == "palace":
        return np.asarray(sample_photo("china.jpg"), dtype=np.uint8)
    image = np.asarray(getattr(photographs, name)(), dtype=np.uint8)
    return image if image.ndim == 3 else np.stack([image] * 3, axis=-1)


def pan_over(image_HWC: NDArray[np.uint8], path: Path) -> list[NDArray[np.uint8]]:
    """The decoded frames of a video whose camera moves over a photograph from left to right."""
    height_px, width_px = (side // 2 * 2 for side in image_HWC.shape[:2])
    view_px = round(0.85 * width_px) // 2 * 2
    lefts = np.linspace(0, width_px - view_px, NUM_FRAMES).astype(int)
    write_video(path, [image_HWC[:height_px, left : left + view_px] for left in lefts])
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in frames]


@pytest.fixture(scope="module")
def checker(classifier: ImageNetClassifier) -> HallucinationChecker:
    config = HallucinationConfig(backend="embedded", num_frames=2)
    made = make_checker(config, classifier=classifier, open_model=open_chat_model)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[NDArray[np.uint8]]]:
    folder = tmp_path_factory.mktemp("pans")
    return {name: pan_over(photo(name), folder / f"{name}.mp4") for name in TRUE_CAPTIONS}


def verdicts(
    checker: HallucinationChecker,
    clips: dict[str, list[NDArray[np.uint8]]],
    captions: dict[str, str],
) -> dict[str, Verdict]:
    """What is said of each clip with its caption."""
    framed = [CaptionedFrames(text, clips[name]) for name, text in captions.items()]
    found = zip(captions, checker.check(framed), strict=True)
    return {name: verdict for name, verdict in found if isinstance(verdict, Verdict)}


def figures(of_clips: dict[str, Verdict]) -> DsgFigures:
    found = dsg_figures(v.counts for v in of_clips.values() if v.counts is not None)
    assert found is not None
    return found


@pytest.mark.slow
def test_swapping_an_object_for_an_absent_one_raises_both_figures(
    checker: HallucinationChecker, clips: dict[str, list[NDArray[np.uint8]]]
) -> None:
    swapped = dict(TRUE_CAPTIONS)
    for noun, absent in SWAPS.items():
        swapped = {name: text.replace(noun, absent) for name, text in swapped.items()}
    of_true, of_swapped = (verdicts(checker, clips, c) for c in (TRUE_CAPTIONS, swapped))
    true, all_of_them = figures(of_true), figures(of_swapped)
    assert true.dsg_video_i <= 0.1
    assert true.dsg_video_s <= 0.25
    one = figures({**of_true, "cat": of_swapped["cat"]})
    assert true.dsg_video_i < one.dsg_video_i < all_of_them.dsg_video_i
    assert true.dsg_video_s < one.dsg_video_s < all_of_them.dsg_video_s
    assert all_of_them.dsg_video_s >= 0.75


def test_what_is_hallucinated_is_named_and_the_unknown_is_not_judged(
    checker: HallucinationChecker, clips: dict[str, list[NDArray[np.uint8]]]
) -> None:
    cat = clips["cat"]
    wrong, unknown = checker.check(
        [
            CaptionedFrames("A cat and a pizza.", cat),
            CaptionedFrames("A philosopher thinks of justice.", cat),
        ]
    )
    assert isinstance(wrong, Verdict)
    assert wrong.hallucinated == ("pizza",)
    assert unknown == Verdict(counts=None, hallucinated=())


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("A tabby cat and two puppies.", {"cat": "tabby cat", "dog": "puppies"}),
        ("A hot dog on a plate.", {"hot dog": "hot dog"}),
        ("The cat, the kitten and other cats.", {"cat": "cat"}),
        ("A Golden Retriever runs.", {"dog": "golden retriever"}),
        ("Wolves and foxes.", {"wolf": "wolves", "fox": "foxes"}),
        ("Geese and ponies.", {"bird": "geese", "horse": "ponies"}),
        ("No dog, without a cat, like a bird, not any horses.", {}),
        ("A bird's-eye view of a train station, computer animation.", {}),
        ('The text "The Cat" is on the screen.', {}),
        ("An orange carpet, catalogued; a boxer in a ring under a dome.", {}),
        ("A man walks down the street.", {}),
    ],
)
def test_nouns_are_found_once_and_only_where_something_is_seen(
    text: str, nouns: dict[str, str]
) -> None:
    assert nouns_in(text) == nouns


@pytest.mark.parametrize(
    ("group", "labels"),
    [
        ("zebra", {"zebra"}),
        ("rocket", {"missile", "space shuttle"}),
        ("elephant", {"tusker", "Asian elephant", "African bush elephant"}),
        ("pizza", {"pizza"}),
        ("rabbit", {"wallaby", "cottontail rabbit", "hare", "Angora rabbit"}),
        (
            "bicycle",
            {"tandem bicycle", "rickshaw vehicle", "mountain bike", "tricycle", "unicycle"},
        ),
    ],
)
def test_groups_hold_the_classes_that_show_them(group: str, labels: set[str]) -> None:
    assert {imagenet_labels()[index] for index in class_indices(group)} == labels


def test_crops_cover_the_picture() -> None:
    for height_px, width_px in ((90, 160), (160, 90), (100, 100), (1, 3)):
        rows, columns = np.mgrid[:height_px, :width_px]
        image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
        squares = crops(image)[1:]
        seen = {tuple(pixel) for square in squares for pixel in square.reshape(-1, 3).tolist()}
        assert len(seen) >= 0.9 * height_px * width_px


def test_the_backend_names_the_model_and_its_version(classifier: ImageNetClassifier) -> None:
    assert EmbeddedJudge(classifier).backend == "embedded:efficientnet-lite0-nouns-v1"
