from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from data_engine.config import ScoreConfig
from data_engine.errors import JobError
from data_engine.scores import pixels
from data_engine.scores.aesthetic import AestheticHead
from data_engine.scores.brisque import Brisque
from data_engine.scores.text_area import place
from data_engine.scoring import FrameScorers, check_scorers, scorer_versions

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scorers() -> FrameScorers:
    return FrameScorers(ScoreConfig())


def test_every_degraded_copy_has_less_technical_quality(photos: dict[str, Image]) -> None:
    brisque = Brisque()

    def quality(image: Image) -> float:
        score = brisque.score(image)
        assert score is not None
        return pixels.technical_quality(image, score)

    # One of them has no colours to lose.
    for photo in (photo for name, photo in photos.items() if name != "tripod"):
        noise = np.random.default_rng(0).normal(0, 25, photo.shape)
        degraded = {
            "blurred": cv2.GaussianBlur(photo, (0, 0), 3),
            "noisy": np.clip(photo + noise, 0, 255).astype(np.uint8),
            "dark": (photo * 0.12).astype(np.uint8),
            "gray": np.repeat(photo.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
        }
        original = quality(photo)
        assert 0 < original <= 1
        worse = {
            name: quality(np.asarray(image, dtype=np.uint8)) for name, image in degraded.items()
        }
        assert max(worse.values()) < original, worse


def test_frames_of_two_shots_are_less_consistent_than_a_pan(
    scorers: FrameScorers, photos: dict[str, Image]
) -> None:
    first, second = list(photos.values())[:2]
    pan = [np.ascontiguousarray(first[:, left : left + 480]) for left in (0, 12, 24)]
    within, across = scorers.score("embedding", [pan, [*pan[:2], second]])
    assert within.scores["consistency"].value > 0.8 > across.scores["consistency"].value + 0.2
    assert within.scores["consistency"].backend == "embedded:efficientnet-lite0"
    assert within.embedding_D is not None
    assert np.linalg.norm(within.embedding_D) == pytest.approx(1, abs=1e-5)


def test_one_frame_says_nothing_of_consistency(
    scorers: FrameScorers, photos: dict[str, Image]
) -> None:
    (found,) = scorers.score("embedding", [[next(iter(photos.values()))]])
    assert found.scores == {}
    assert found.embedding_D is not None


def test_a_clip_without_frames_has_no_scores(scorers: FrameScorers) -> None:
    for name in ScoreConfig().frame_scorers:
        (found,) = scorers.score(name, [[]])
        assert (found.scores, found.texts, found.embedding_D) == ({}, (), None)


@pytest.mark.parametrize(
    ("centre", "where"),
    [
        ((320, 340), "edge"),
        ((320, 20), "edge"),
        ((320, 180), "middle"),
        ((40, 30), "corner"),
        ((600, 340), "corner"),
        ((40, 180), "middle"),
    ],
)
def test_subtitles_lie_at_edges_and_logos_in_corners(centre: tuple[int, int], where: str) -> None:
    x, y = centre
    corners = [(x - 9, y - 9), (x + 9, y - 9), (x + 9, y + 9), (x - 9, y + 9)]
    assert place(np.array(corners, dtype=np.float32), 360, 640) == where


def test_text_at_an_edge_is_counted_there(scorers: FrameScorers, photos: dict[str, Image]) -> None:
    frame = next(iter(photos.values())).copy()
    height_px = frame.shape[0]
    cv2.rectangle(frame, (0, height_px - 60), (frame.shape[1], height_px), (0, 0, 0), -1)
    place_px = (frame.shape[1] // 2 - 130, height_px - 20)
    cv2.putText(frame, "Good morning", place_px, cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 2)
    found = scorers.score("text", [[frame]])[0].scores
    assert found["text_area_edges"].value == pytest.approx(found["text_area"].value) != 0
    assert found["text_area_corners"].value == 0


def test_a_version_follows_the_model_and_not_the_other_scorers(tmp_path: Path) -> None:
    plain = scorer_versions(ScoreConfig())
    assert list(plain) == ["quality", "text", "embedding"]
    clip = scorer_versions(ScoreConfig(embedding="open_clip", open_clip_pretrained="openai"))
    assert clip["embedding"] == "hub:open_clip/ViT-L-14/openai"
    assert {name for name in plain if plain[name] != clip[name]} == {"embedding"}


class TestAestheticHead:
    def write(self, path: Path, **tensors: NDArray[np.float32]) -> Path:
        save_file(dict(tensors), path)
        return path

    def test_it_is_linear_in_the_embedding(self, tmp_path: Path) -> None:
        weight = np.array([[2.0, -1.0, 0.5]], dtype=np.float32)
        path = self.write(
            tmp_path / "head.safetensors", weight=weight, bias=np.array([5.0], dtype=np.float32)
        )
        rows = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
        head = AestheticHead(path)
        assert head.score(rows) == pytest.approx((7.0 + 4.0) / 2)
        assert head.backend.startswith("file:laion-head/")

    def test_an_embedding_of_another_model_is_refused(self, tmp_path: Path) -> None:
        weight = np.ones((1, 3), dtype=np.float32)
        path = self.write(
            tmp_path / "head.safetensors", weight=weight, bias=np.array([0.0], dtype=np.float32)
        )
        with pytest.raises(JobError, match=r"takes embeddings of 3 numbers.*gives 5"):
            AestheticHead(path).score(np.ones((2, 5), dtype=np.float32))

    @pytest.mark.parametrize("content", ["missing", "text", "other tensors"])
    def test_what_is_no_head_is_one_line(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "head.safetensors"
        if content == "text":
            path.write_text("no tensors")
        elif content == "other tensors":
            self.write(path, weights=np.ones(3, dtype=np.float32))
        with pytest.raises(JobError, match=r"is not a file|not a safetensors file|expected weight"):
            check_scorers(ScoreConfig(frame_scorers=("aesthetic",), aesthetic_head=str(path)))
