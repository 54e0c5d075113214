import json
import shutil
from pathlib import Path

import pytest

from data_engine.caption_config import CaptionConfig, HallucinationConfig, TransformersConfig
from data_engine.captioning import CAPTIONERS, CaptionRequest
from data_engine.captioning.chat import Answer, Failure, Question, shared_models
from data_engine.captioning.local_model import TransformersChat, check_local_model
from data_engine.describing import check_chat_models
from data_engine.errors import JobError
from data_engine.schema import Caption
from data_engine.scores.classifier import ImageNetClassifier
from tests.data_engine.captioning.tiny_models import (
    BLUE,
    DESCRIBE,
    MERGE,
    RED,
    write_tiny_llm,
    write_tiny_video_model,
    write_tiny_vlm,
)

# Models are trained, saved and loaded, by parts of transformers that take seconds to import.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llm(tmp_path_factory.mktemp("models") / "tiny-llm")


def config(folder: Path, **changes: object) -> TransformersConfig:
    return TransformersConfig(model=str(folder), device="cpu", max_new_tokens=16).model_copy(
        update=changes
    )


def test_a_model_on_disk_describes_clips_in_batches(
    vlm_folder: Path, classifier: ImageNetClassifier
) -> None:
    captions = CaptionConfig(
        captioners=("vlm",), vlm=config(vlm_folder, batch_size=2), prompt=DESCRIBE, num_frames=2
    )
    check_chat_models(captions, HallucinationConfig())
    captioner = CAPTIONERS["vlm"](captions, classifier=classifier, open_model=shared_models())
    # Clips of one and of two frames share a batch, so that the shorter prompt is padded.
    clips = [[RED], [RED, RED, BLUE, BLUE], [BLUE, RED], [BLUE], [RED]]
    written = captioner.caption([CaptionRequest(images=images) for images in clips])
    red, blue = "A red wall", "A blue wall"
    texts = [f"{red} .", f"{red} then {blue} .", f"{blue} then {red} .", f"{blue} .", f"{red} ."]
    assert written == [
        Caption(
            text=text,
            source="vlm",
            model="file:transformers/tiny-vlm",
            prompt=DESCRIBE,
            num_tokens=len(text.split()),
        )
        for text in texts
    ]


def test_frames_are_described_alone_and_merged_by_a_language_model(
    vlm_folder: Path, llm_folder: Path, classifier: ImageNetClassifier
) -> None:
    captions = CaptionConfig(
        captioners=("frames_then_merge",),
        vlm=config(vlm_folder),
        llm=config(llm_folder),
        frames_by="vlm",
        merged_by="llm",
        frame_prompt=DESCRIBE,
        merge_prompt=MERGE,
        num_frames=2,
    )
    check_chat_models(captions, HallucinationConfig())
    make = CAPTIONERS["frames_then_merge"]
    captioner = make(captions, classifier=classifier, open_model=shared_models())
    clips = [[RED, BLUE], [BLUE, RED], [BLUE, BLUE]]
    written = captioner.caption([CaptionRequest(images=images) for images in clips])
    assert [caption.text for caption in written if isinstance(caption, Caption)] == [
        "A red wall then A blue wall .",
        "A blue wall then A red wall .",
        "A blue wall .",
    ]
    assert isinstance(written[0], Caption)
    assert written[0].source == "frames_then_merge"
    assert written[0].model == "file:transformers/tiny-vlm + file:transformers/tiny-llm"


def test_a_video_model_is_shown_a_video(
    vlm_folder: Path, classifier: ImageNetClassifier, tmp_path: Path
) -> None:
    model = config(write_tiny_video_model(tmp_path / "tiny-video"), frames_as="video", batch_size=2)
    captions = CaptionConfig(captioners=("vlm",), vlm=model, prompt=DESCRIBE, num_frames=2)
    check_chat_models(captions, HallucinationConfig())
    captioner = CAPTIONERS["vlm"](captions, classifier=classifier, open_model=shared_models())
    # One of them has a frame of another size.
    clips = [[RED, BLUE], [BLUE, RED], [BLUE, RED[::2, ::2]]]
    written = captioner.caption([CaptionRequest(images=images) for images in clips])
    assert [caption.text for caption in written if isinstance(caption, Caption)] == [
        "A red wall then A blue wall .",
        "A blue wall then A red wall .",
        "A blue wall then A red wall .",
    ]
    with pytest.raises(JobError, match="has no video input; set it to 'images'"):
        check_local_model(config(vlm_folder, frames_as="video"))


def test_equal_configurations_share_one_model(vlm_folder: Path) -> None:
    open_model = shared_models()
    assert open_model(config(vlm_folder)) is open_model(config(vlm_folder))
    assert open_model(config(vlm_folder)) is not open_model(config(vlm_folder, max_new_tokens=8))


def test_an_answer_that_does_not_end_is_a_failure(vlm_folder: Path) -> None:
    model = TransformersChat(config(vlm_folder, max_new_tokens=3))
    (failure,) = model.ask([Question(prompt=DESCRIBE, images=[RED])])
    assert failure == Failure("the answer was cut in the middle; allow more with max_new_tokens")


def test_drawing_depends_on_the_seed_alone(vlm_folder: Path) -> None:
    import torch

    model = TransformersChat(config(vlm_folder, temperature=50.0, max_new_tokens=64))
    assert model.is_random

    def draw(seed: int) -> list[Answer | Failure]:
        return model.ask([Question(prompt=DESCRIBE, images=[RED], seed=seed)])

    before = torch.random.get_rng_state()
    drawn = [draw(seed) for seed in range(4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [draw(seed) for seed in range(4)] == drawn
    assert len({str(answers) for answers in drawn}) > 1


def test_what_cannot_be_loaded_is_one_line_before_the_work(
    vlm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(vlm_folder, tmp_path / name))

    no_template = copy("no_template")
    (no_template / "chat_template.jinja").unlink()
    with pytest.raises(JobError, match="has no chat template"):
        check_local_model(config(no_template))

    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(JobError, match="no safetensors weights; no other format is read"):
        check_local_model(config(pickled))
    with pytest.raises(JobError, match="cannot load"):
        TransformersChat(config(pickled))

    with_code = copy("with_code")
    (with_code / "evil.py").write_text("raise SystemExit('this code was run')")
    (with_code / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    with pytest.raises(JobError, match="cannot load") as caught:
        check_local_model(config(with_code))
    assert "\n" not in str(caught.value)

    classifier = copy("classifier")
    (classifier / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(JobError, match="is a resnet, which is no model that chats"):
        check_local_model(config(classifier))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(JobError, match="'nobody/nothing' is neither a folder nor a repository"):
        check_local_model(TransformersConfig(model="nobody/nothing"))
