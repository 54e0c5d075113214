"""Metrics as functions of arrays; no model, no file. Which features they are given is named in every result."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import EvaluationError

Floats = NDArray[Any]
Frames = NDArray[np.uint8]
"""N x height x width x RGB."""


def frechet_distance(first_ND: Floats, second_MD: Floats) -> float:
    """Squared Frechet distance of the normal distributions fitted to two sets of features.

    With features of Inception it is called FID, with those of a video network FVD (section 3.1). The
    trace of the root of the product of the covariances is the sum of the singular values of the product of
    the centred features. So no root of a near-singular matrix is taken, and fewer samples than dimensions
    need no correction.

    Raises:
        EvaluationError: fewer than two samples, different widths, or values that are not finite.
    """
    first_ND, second_MD = _checked(first_ND), _checked(second_MD)
    if first_ND.shape[1] != second_MD.shape[1]:
        raise EvaluationError(
            f"features are {first_ND.shape[1]} and {second_MD.shape[1]} wide; take both from one backend"
        )
    means = first_ND.mean(axis=0), second_MD.mean(axis=0)
    factor_KD, other_KD = _covariance_factor(first_ND), _covariance_factor(second_MD)
    root_trace = np.linalg.svd(factor_KD @ other_KD.T, compute_uv=False).sum()
    traces = np.square(factor_KD).sum() + np.square(other_KD).sum()
    distance = np.square(means[0] - means[1]).sum() + traces - 2 * root_trace
    # Rounding may leave a tiny negative number where the two are equal.
    return max(0.0, float(distance))


def _checked(features_ND: Floats) -> NDArray[np.float64]:
    features_ND = np.asarray(features_ND, dtype=np.float64)
    if features_ND.ndim != 2 or len(features_ND) < 2:
        raise EvaluationError(
            f"features have shape {features_ND.shape}; at least two samples (rows) are needed"
        )
    if not np.isfinite(features_ND).all():
        raise EvaluationError("features hold values that are not finite; look at the videos given")
    return features_ND


def _covariance_factor(features_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix whose Gram matrix is the covariance, with at most as many rows as columns."""
    num, width = features_ND.shape
    factor = (features_ND - features_ND.mean(axis=0)) / np.sqrt(num - 1)
    # Of a tall matrix, the triangle of its QR decomposition has the same Gram matrix.
    return np.asarray(np.linalg.qr(factor, mode="r")) if num > width else factor


def inception_score(probabilities_NK: Floats, num_splits: int = 10) -> tuple[float, float]:
    """Mean and deviation over consecutive splits of exp(KL(p(y|x) || p(y))) (Salimans et al., 2016).

    Rows are class probabilities. The deviation is that of the population, as in the original.

    Raises:
        EvaluationError: fewer samples than splits, or rows that are no probabilities.
    """
    rows_NK = np.asarray(probabilities_NK, dtype=np.float64)
    if num_splits < 1 or len(rows_NK) < num_splits:
        raise EvaluationError(f"{len(rows_NK)} samples cannot be divided into {num_splits} splits")
    if (rows_NK < 0).any() or not np.allclose(rows_NK.sum(axis=1), 1, atol=1e-3):
        raise EvaluationError("class probabilities must be at least 0 and add up to 1 in each row")
    scores = [_split_score(part) for part in np.array_split(rows_NK, num_splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(rows_NK: NDArray[np.float64]) -> float:
    marginal_K = rows_NK.mean(axis=0)
    # 0 log 0 is 0; where a row is above 0 the marginal is too.
    ratio_NK = np.divide(rows_NK, marginal_K, out=np.ones_like(rows_NK), where=rows_NK > 0)
    return float(np.exp((rows_NK * np.log(ratio_NK)).sum(axis=1).mean()))


def psnr_db(frames: Frames, truth: Frames) -> Floats:
    """Peak signal-to-noise ratio of each frame in dB; infinite for equal frames.

    Raises:
        EvaluationError: the shapes differ.
    """
    _check_pair(frames, truth)
    difference = frames.astype(np.float64) - truth.astype(np.float64)
    error_N = np.square(difference).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error_N)


def ssim(frames: Frames, truth: Frames) -> Floats:
    """Structural similarity of each frame, 1 for equal frames (Wang et al., 2004: Gaussian window, sigma 1.5).

    Raises:
        EvaluationError: the shapes differ, or frames are smaller than the window of 11 px.
    """
    from skimage.metrics import structural_similarity

    _check_pair(frames, truth)
    if min(frames.shape[1:3]) < 11:
        raise EvaluationError(f"frames of {frames.shape[1:3]} px are smaller than the window, 11")
    values = [
        structural_similarity(
            one,
            other,
            channel_axis=-1,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for one, other in zip(frames, truth, strict=True)
    ]
    return np.asarray(values, dtype=np.float64)


def paired_cosine(first_ND: Floats, second_ND: Floats) -> Floats:
    """Cosine of each row with the row of the same number, -1 to 1. With CLIP's features: CLIP similarity.

    Raises:
        EvaluationError: the shapes differ, or a row is zero.
    """
    if first_ND.shape != second_ND.shape:
        raise EvaluationError(f"features of shapes {first_ND.shape} and {second_ND.shape} differ")
    lengths_N = np.linalg.norm(first_ND, axis=1) * np.linalg.norm(second_ND, axis=1)
    if not (lengths_N > 0).all():
        raise EvaluationError("a feature vector is zero and has no direction")
    return (first_ND * second_ND).sum(axis=1) / lengths_N


def _check_pair(frames: Frames, truth: Frames) -> None:
    if frames.shape != truth.shape or frames.ndim != 4:
        raise EvaluationError(
            f"frames of shapes {frames.shape} and {truth.shape}; both must be N x height x width x RGB"
        )
