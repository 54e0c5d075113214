"""Videos one by one give the metrics of all of them at once, and are let go."""

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.features import PooledFrameFeatures
from training.evaluation.judging import MAX_PSNR_DB, Judges, Judging
from training.evaluation.metrics import frechet_distance, inception_score, psnr_db, ssim
from training.streaming.decode import FramesFHWC


def colours(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


class Shares:
    """The share of each colour: probabilities of three classes, from features of whole videos."""

    metric = None
    backend = "shares"
    score_name = "inception_score_shares"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        sums = np.stack([video.sum(axis=(0, 1, 2), dtype=np.float32) for video in videos])
        return sums / sums.sum(axis=1, keepdims=True)

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        return features_ND


class Brightness:
    """Bright and dark in two dimensions."""

    backend = "brightness"
    score_name = "brightness_similarity"

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        means = np.array([image.mean() for image in images], np.float32)
        return np.stack([means, 255 - means], axis=1)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0] if text == "bright" else [0, 1] for text in texts], np.float32)


POOLED = PooledFrameFeatures(colours, "mean colour")
JUDGES = Judges(features=(POOLED, Shares()), similarity=Brightness())


def videos(seed: int, num: int = 4) -> list[FramesFHWC]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (5, 24, 32, 3), dtype=np.uint8) for _ in range(num)]


def test_the_numbers_are_those_of_all_videos_at_once() -> None:
    made, real = videos(0), videos(1)
    made[2] = real[2]  # equal frames, whose ratio is infinite
    judging = Judging(JUDGES, given=(0,), with_text=True)
    for one, other in zip(made, real, strict=True):
        judging.add(one, other, "bright")
    metrics, skipped = judging.metrics()
    found = {metric.name: metric.value for metric in metrics}
    left = [np.concatenate([video[1:] for video in of]) for of in (made, real)]
    assert found["psnr_db"] == np.minimum(psnr_db(*left), MAX_PSNR_DB).mean()
    assert found["ssim"] == ssim(*left).mean()
    assert found["embedded_frechet_video"] == frechet_distance(
        POOLED.features(made), POOLED.features(real)
    )
    assert found["inception_score_shares"] == inception_score(Shares().features(made), 4)[0]
    by_hand = [
        v.mean(axis=(1, 2, 3)) / np.hypot(v.mean((1, 2, 3)), 255 - v.mean((1, 2, 3))) for v in made
    ]
    assert found["brightness_similarity"] == pytest.approx(np.mean(by_hand), rel=1e-6)
    assert not skipped
    (structure,) = (metric for metric in metrics if metric.name == "ssim")
    assert structure.backend.startswith("scikit-image 0.")
    assert structure.num_samples == 16


def test_no_frame_is_kept() -> None:
    judging = Judging(JUDGES, given=(0,), with_text=True)
    seen: list[weakref.ref[FramesFHWC]] = []
    for seed in range(3):
        one, other = videos(seed, 2)
        seen += [weakref.ref(one), weakref.ref(other)]
        judging.add(one, other, "dark")
        del one, other
    assert [frames() for frames in seen] == [None] * 6
    assert judging.num_made == 3


def test_a_clip_is_a_reference_once_and_without_text_nothing_is_similar() -> None:
    made, real = videos(0), videos(1, 2)
    judging = Judging(JUDGES, given=(), with_text=False)
    for number, one in enumerate(made):
        judging.add(one, real[number] if number < 2 else None, "bright")
    metrics, skipped = judging.metrics()
    counts = {metric.name: (metric.num_samples, metric.num_references) for metric in metrics}
    assert counts == {"embedded_frechet_video": (4, 2), "inception_score_shares": (4, None)}
    assert metrics[0].value == frechet_distance(POOLED.features(made), POOLED.features(real))
    assert any("without text" in reason for reason in skipped)
