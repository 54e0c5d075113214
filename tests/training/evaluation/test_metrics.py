import numpy as np
import pytest
import scipy.linalg
import torch
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import fid
from torchmetrics.image.inception import InceptionScore

from training.errors import EvaluationError
from training.evaluation.metrics import (
    frechet_distance,
    inception_score,
    paired_cosine,
    psnr_db,
    ssim,
)


def features(num: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def frames(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 24, 32, 3), dtype=np.uint8)


def test_frechet_by_hand() -> None:
    """One dimension: (difference of means)^2 + (difference of deviations)^2."""
    first, second = np.array([[0.0], [2.0]]), np.array([[5.0], [11.0]])
    # Means 1 and 8, deviations sqrt(2) and sqrt(18).
    expected = 49 + (np.sqrt(18) - np.sqrt(2)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected)


@pytest.mark.parametrize("nums", [(300, 200), (300, 9), (7, 9)])
def test_frechet_agrees_with_scipy_and_torchmetrics(nums: tuple[int, int]) -> None:
    one, other = features(nums[0], 16, 0), features(nums[1], 16, 1)
    covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    means = one.mean(0), other.mean(0)
    root = np.real(np.sqrt(scipy.linalg.eigvals(covariances[0] @ covariances[1]))).sum()
    expected = np.square(means[0] - means[1]).sum() + sum(map(np.trace, covariances)) - 2 * root
    found = frechet_distance(one, other)
    assert found == pytest.approx(expected, rel=1e-5)
    arguments = (means[0], covariances[0], means[1], covariances[1])
    theirs = fid._compute_fid(*(torch.from_numpy(value) for value in arguments))  # pyright: ignore[reportPrivateUsage]  # the public one takes images
    assert found == pytest.approx(float(theirs), rel=1e-5)


def test_frechet_of_the_same_features_is_zero_and_it_is_symmetric() -> None:
    one, other = features(5, 40, 0), features(8, 40, 1)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (np.zeros((1, 3)), "two samples"),
        (np.zeros((4, 2)), "wide"),
        (np.full((4, 3), np.nan), "finite"),
    ],
)
def test_frechet_refuses_what_has_no_distance(other: np.ndarray, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        frechet_distance(np.zeros((4, 3)), other)


def test_inception_score_by_hand() -> None:
    assert inception_score(np.eye(4), 1) == (pytest.approx(4.0), 0.0)
    assert inception_score(np.full((6, 5), 0.2), 2) == (pytest.approx(1.0), pytest.approx(0.0))


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save", "ignore:std")
def test_inception_score_agrees_with_torchmetrics() -> None:
    logits = np.random.default_rng(0).normal(size=(60, 7)) * 2

    class Logits(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(logits)

    theirs = InceptionScore(Logits(), splits=1, normalize=False)
    theirs.update(torch.zeros(60, 3, 4, 4, dtype=torch.uint8))
    expected = float(theirs.compute()[0])
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    assert inception_score(probabilities, 1)[0] == pytest.approx(expected, rel=1e-5)


def test_inception_score_refuses_logits() -> None:
    with pytest.raises(EvaluationError, match="add up to 1"):
        inception_score(np.ones((4, 3)), 1)
    with pytest.raises(EvaluationError, match="splits"):
        inception_score(np.eye(4), 5)


def test_psnr_agrees_with_scikit_image_and_by_hand() -> None:
    one, other = frames(3, 0), frames(3, 1)
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(other, one, strict=True)]
    assert psnr_db(one, other) == pytest.approx(expected)
    grey = np.full((1, 2, 2, 3), 100, np.uint8)
    assert psnr_db(grey, grey + 1) == pytest.approx([20 * np.log10(255)])
    assert np.isinf(psnr_db(grey, grey)).all()


def test_ssim_agrees_with_torchmetrics_and_by_hand() -> None:
    one = frames(2, 0)
    other = np.clip(one.astype(int) + np.random.default_rng(1).integers(-40, 40, one.shape), 0, 255)
    other = other.astype(np.uint8)
    mine, theirs = [torch.from_numpy(value).permute(0, 3, 1, 2).double() for value in (one, other)]
    result = structural_similarity_index_measure(
        mine, theirs, data_range=255.0, reduction="none", return_full_image=True
    )
    # Windows that reach over the border count for them; the original code, and ours, leave them out.
    inside = result[1][:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ssim(one, other) == pytest.approx(np.asarray(inside), abs=1e-6)
    assert ssim(one, one) == pytest.approx([1, 1])
    # Flat frames: only the term of luminance is left.
    dark, light = np.full((1, 16, 16, 3), 50, np.uint8), np.full((1, 16, 16, 3), 100, np.uint8)
    constant = (0.01 * 255) ** 2
    by_hand = (2 * 50 * 100 + constant) / (50**2 + 100**2 + constant)
    assert ssim(dark, light) == pytest.approx([by_hand])


def test_cosine_by_hand() -> None:
    one, other = np.array([[1.0, 0], [2, 0]]), np.array([[3.0, 0], [1, 1]])
    assert paired_cosine(one, other) == pytest.approx([1, np.sqrt(0.5)])
    with pytest.raises(EvaluationError, match="no direction"):
        paired_cosine(one, np.zeros((2, 2)))


def test_frames_of_different_shapes_are_refused() -> None:
    with pytest.raises(EvaluationError, match="shapes"):
        psnr_db(frames(2, 0), frames(3, 0))
