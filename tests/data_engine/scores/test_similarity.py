import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from data_engine.config import ScoreConfig
from data_engine.describing import check_models
from data_engine.errors import JobError
from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.similarity import SIMILARITY_BACKENDS, ConSE, OpenCLIP, mean_cosine
from data_engine.scoring import FrameScorers, FrameScores, scorer_versions

TEXTS = {
    "cat": "a cat with striped fur looks at the camera",
    "coffee": "a cup of coffee on a saucer",
    "rocket": "a rocket on its launch pad",
    "tripod": "a man takes a picture with a camera on a tripod",
    "palace": "a Chinese temple with curved roofs",
    "flower": "a flower with yellow petals",
}


@pytest.fixture(scope="module")
def conse(classifier: ImageNetClassifier) -> ConSE:
    return ConSE(classifier)


@pytest.fixture(scope="module")
def cosines(conse: ConSE, photos: dict[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
    images_ND = conse.embed_images([photos[name] for name in TEXTS])
    return images_ND @ conse.embed_texts(list(TEXTS.values())).T


@pytest.mark.slow
def test_matching_pairs_beat_mismatched_ones(cosines: NDArray[np.float32]) -> None:
    matching = np.diag(cosines)
    mismatched = cosines[~np.eye(len(TEXTS), dtype=bool)]
    assert matching.mean() > mismatched.mean() + 0.2
    assert (cosines.argmax(axis=1) == np.arange(len(TEXTS))).mean() >= 0.8


@pytest.mark.slow
def test_unrelated_pairs_are_near_zero(cosines: NDArray[np.float32]) -> None:
    mismatched = cosines[~np.eye(len(TEXTS), dtype=bool)]
    assert abs(mismatched.mean()) < 0.1


@pytest.mark.slow
def test_rows_are_unit_vectors_and_do_not_depend_on_the_batch(
    conse: ConSE, photos: dict[str, NDArray[np.uint8]]
) -> None:
    images_ND = conse.embed_images([photos["cat"], photos["coffee"]])
    texts_MD = conse.embed_texts(["a cat", "two long words more than the other text"])
    for rows in (images_ND, texts_MD):
        assert rows.dtype == np.float32
        assert rows.shape == (2, 384)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    coffee_1D, cat_1D = conse.embed_images([photos["coffee"]]), conse.embed_texts(["a cat"])
    np.testing.assert_allclose(images_ND[1:], coffee_1D, atol=1e-6)
    np.testing.assert_allclose(texts_MD[:1], cat_1D, atol=1e-5)


@pytest.mark.slow
def test_the_same_call_gives_the_same_bytes(
    conse: ConSE, photos: dict[str, NDArray[np.uint8]]
) -> None:
    texts = list(TEXTS.values())
    np.testing.assert_array_equal(conse.embed_texts(texts), conse.embed_texts(texts))
    pictures = [photos["rocket"]]
    np.testing.assert_array_equal(conse.embed_images(pictures), conse.embed_images(pictures))


def test_the_score_is_the_mean_cosine_over_pictures() -> None:
    images_ND = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    assert mean_cosine(images_ND, np.array([1, 0], dtype=np.float32)) == 0
    assert mean_cosine(images_ND[:2], np.array([0, 1], dtype=np.float32)) == 0.5


def test_backends_are_listed_under_the_names_of_the_configuration() -> None:
    assert list(SIMILARITY_BACKENDS) == ["conse", "open_clip"]


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random weights of a small CLIP, which is registered as `stiv-test-tiny`."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "stiv-test-tiny.json").write_text(
        json.dumps(
            {
                "embed_dim": 24,
                "vision_cfg": {
                    "image_size": 32,
                    "layers": 1,
                    "width": 32,
                    "head_width": 16,
                    "patch_size": 16,
                },
                "text_cfg": {
                    "context_length": 16,
                    "vocab_size": 49408,
                    "width": 16,
                    "heads": 2,
                    "layers": 1,
                },
            }
        )
    )
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    weights = open_clip.create_model("stiv-test-tiny").state_dict()
    path = folder / "weights.pt"
    torch.save(weights, path)
    return path


@pytest.mark.slow
def test_open_clip_loads_a_checkpoint_and_embeds(
    tiny_checkpoint: Path, classifier: ImageNetClassifier, photos: dict[str, NDArray[np.uint8]]
) -> None:
    backend = SIMILARITY_BACKENDS["open_clip"](
        classifier=classifier,
        open_clip_model="stiv-test-tiny",
        open_clip_pretrained=str(tiny_checkpoint),
    )
    assert backend.score_name == "clip_similarity"
    assert backend.backend.startswith("file:open_clip/stiv-test-tiny/")
    assert str(tiny_checkpoint.parent) not in backend.backend
    (images_ND,) = backend.embed_clips([[photos["cat"], photos["coffee"]]])
    texts_MD = backend.embed_texts(["a cat", "a cup of coffee " * 20, "a rocket"])
    assert images_ND.shape == (2, 24)
    assert texts_MD.shape == (3, 24)
    for rows in (images_ND, texts_MD):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    again = OpenCLIP("stiv-test-tiny", str(tiny_checkpoint))
    np.testing.assert_allclose(again.embed_images([photos["cat"]]), images_ND[:1], atol=1e-5)


@pytest.mark.slow
def test_the_frames_of_several_clips_go_through_open_clip_together(
    tiny_checkpoint: Path, photos: dict[str, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = tiny_checkpoint.with_name("head.safetensors")
    weight = np.linspace(-1, 1, 24, dtype=np.float32)
    save_file({"weight": weight, "bias": np.array([5.0], dtype=np.float32)}, head)
    config = ScoreConfig(
        frame_scorers=("embedding", "aesthetic"),
        embedding="open_clip",
        open_clip_model="stiv-test-tiny",
        open_clip_pretrained=str(tiny_checkpoint),
        aesthetic_model="stiv-test-tiny",
        aesthetic_pretrained=str(tiny_checkpoint),
        aesthetic_head=str(head),
    )
    seen: list[int] = []
    embed = OpenCLIP.embed_images

    def counted(model: OpenCLIP, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        seen.append(len(images))
        return embed(model, images)

    monkeypatch.setattr(OpenCLIP, "embed_images", counted)
    clips = [[photos["cat"]], [], [photos["coffee"], photos["rocket"], photos["cat"]]]
    scorers = FrameScorers(config)
    for name, score in (("embedding", "consistency"), ("aesthetic", "aesthetic")):
        together = scorers.score(name, clips)
        assert seen == [4]
        alone = [scorers.score(name, [images])[0] for images in clips]
        seen.clear()
        assert together[1] == FrameScores()
        for one, other in zip(together, alone, strict=True):
            assert one.scores.keys() == other.scores.keys()
            for key, found in one.scores.items():
                assert found.value == pytest.approx(other.scores[key].value, abs=1e-5)
        assert score in together[2].scores


@pytest.mark.slow
def test_the_head_sees_embeddings_of_its_own_model(
    tiny_checkpoint: Path, photos: dict[str, NDArray[np.uint8]]
) -> None:
    """Another model of the same width gives a number as well, which means nothing."""
    head = tiny_checkpoint.with_name("own_head.safetensors")
    weight = np.linspace(-1, 1, 24, dtype=np.float32)
    save_file({"weight": weight, "bias": np.array([5.0], dtype=np.float32)}, head)
    assert ScoreConfig().aesthetic_pretrained == "openai"
    config = ScoreConfig(
        frame_scorers=("aesthetic",),
        aesthetic_model="stiv-test-tiny",
        aesthetic_pretrained=str(tiny_checkpoint),
        aesthetic_head=str(head),
    )
    (found,) = FrameScorers(config).score("aesthetic", [[photos["cat"]]])
    rows_ND = OpenCLIP("stiv-test-tiny", str(tiny_checkpoint)).embed_images([photos["cat"]])
    assert found.scores["aesthetic"].value == pytest.approx(
        float(rows_ND[0] @ weight) + 5, abs=1e-4
    )
    assert found.scores["aesthetic"].backend == scorer_versions(config)["aesthetic"]
    other = config.model_copy(update={"open_clip_pretrained": "laion400m_e31"})
    assert scorer_versions(other) == scorer_versions(config)


@pytest.mark.slow
def test_open_clip_names_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no-such-model"):
        OpenCLIP("no-such-model", "openai")
    with pytest.raises(JobError, match=r"absent\.pt.*openai"):
        OpenCLIP("ViT-B-32", str(tmp_path / "absent.pt"))


@pytest.mark.slow
def test_weights_that_cannot_be_downloaded_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = ScoreConfig(similarity="open_clip", open_clip_model="ViT-B-32")
    with pytest.raises(JobError, match="cannot be downloaded; connect it, set scores"):
        check_models(config.model_copy(update={"open_clip_pretrained": "openai"}))
