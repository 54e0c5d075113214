"""BRISQUE, a measure of technical picture quality that needs no reference.

Mittal, Moorthy and Bovik, "No-Reference Image Quality Assessment in the Spatial Domain", 2012. It says
how far the local contrast statistics are from those of undistorted photographs. It is not an aesthetic
score. The regression weights are those of the `brisque` package; its code is not used.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.scores.weights import packaged_file

MIN_SIDE_PX = 16
"""Smaller pictures have no usable local statistics at the second scale."""

_SVM_SHA256 = "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d"

# Range of each of the 36 features in the training set: 18 at full size, then 18 at half size. Copied from
# models/normalize.pickle of brisque 0.2.0, which is not read: loading a pickle runs what is in it.
_FEATURE_MIN = (
    *(0.336999, 0.019667),
    *(0.23, -0.125959, 0.000167, 0.000616),
    *(0.231, -0.125873, 0.000165, 0.0006),
    *(0.241, -0.128814, 0.000179, 0.000386),
    *(0.243, -0.13308, 0.000182, 0.000421),
    *(0.436998, 0.016929),
    *(0.247, -0.200231, 0.000104, 0.000834),
    *(0.257, -0.200017, 0.000112, 0.000876),
    *(0.257, -0.155072, 0.000112, 0.000356),
    *(0.258, -0.154374, 0.000117, 0.000351),
)
_FEATURE_MAX = (
    *(9.999411, 0.807472),
    *(1.644021, 0.202917, 0.712384, 0.468672),
    *(1.644021, 0.169548, 0.713132, 0.467896),
    *(1.553016, 0.101368, 0.687324, 0.533087),
    *(1.554016, 0.101, 0.689177, 0.533133),
    *(3.639918, 0.800955),
    *(1.096995, 0.175286, 0.755547, 0.39927),
    *(1.095995, 0.155928, 0.751488, 0.402398),
    *(1.041992, 0.093209, 0.623516, 0.532925),
    *(1.042992, 0.093714, 0.621958, 0.534484),
)

_WINDOW_PX = 7
_WINDOW_SIGMA = 7 / 6
_CONTRAST_FLOOR = 1 / 255
_LUMA_WEIGHTS = np.array([[0.2125, 0.7154, 0.0721]])
_MAX_SHAPE = 10.0


def _moment_ratio(shape: float) -> float:
    """Squared mean magnitude over mean square of a generalised Gaussian; grows with `shape`."""
    return math.exp(2 * math.lgamma(2 / shape) - math.lgamma(1 / shape) - math.lgamma(3 / shape))


_SHAPES = np.arange(0.1, _MAX_SHAPE + 1e-9, 0.001)
_MOMENT_RATIOS = np.array([_moment_ratio(shape) for shape in _SHAPES])


class NoTextureError(ValueError):
    """The picture is constant, or nearly so: its contrast has no distribution to fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AsymmetricGaussian:
    """An asymmetric generalised Gaussian: `shape` 2 is a normal law, and 1 a Laplace law."""

    shape: float
    mean: float
    left_variance: float
    right_variance: float


def normalized_contrast(gray_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each pixel minus its local mean, over its local deviation (MSCN); gray is 0 to 1.

    Outside the picture is black, as for the weights that we use.
    """
    kernel = cv2.getGaussianKernel(_WINDOW_PX, _WINDOW_SIGMA)
    border = cv2.BORDER_CONSTANT
    mean = cv2.sepFilter2D(gray_HW, -1, kernel, kernel, borderType=border)
    mean_square = cv2.sepFilter2D(gray_HW * gray_HW, -1, kernel, kernel, borderType=border)
    deviation = np.sqrt(np.abs(mean * mean - mean_square))
    return (gray_HW - mean) / (deviation + _CONTRAST_FLOOR)


def fit_asymmetric_gaussian(values: NDArray[np.float64]) -> AsymmetricGaussian:
    """Match moments; the shape is looked up in a table, between 0.1 and 10.

    Raises:
        NoTextureError: there are no values on one side of zero.
    """
    flat = values.ravel()
    negative = np.minimum(flat, 0.0)
    sum_square = float(flat @ flat)
    left_square = float(negative @ negative)
    num_left = int(np.count_nonzero(negative))
    if num_left == 0 or sum_square - left_square <= 0:
        raise NoTextureError("contrast is one-sided: the picture is constant or nearly so")
    left_variance = left_square / num_left
    right_variance = (sum_square - left_square) / (flat.size - num_left)
    magnitude = (float(flat.sum()) - 2 * float(negative.sum())) / flat.size
    skew = math.sqrt(left_variance / right_variance)
    ratio = (magnitude**2 / (sum_square / flat.size)) * (
        (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    )
    shape = float(np.interp(ratio, _MOMENT_RATIOS, _SHAPES))
    spread = math.exp(0.5 * (math.lgamma(1 / shape) - math.lgamma(3 / shape)))
    offset = math.exp(math.lgamma(2 / shape) - math.lgamma(1 / shape))
    mean = (math.sqrt(right_variance) - math.sqrt(left_variance)) * spread * offset
    return AsymmetricGaussian(
        shape=shape, mean=mean, left_variance=left_variance, right_variance=right_variance
    )


def _scale_features(gray_HW: NDArray[np.float64]) -> list[float]:
    """The 18 features of one scale."""
    contrast = normalized_contrast(gray_HW)
    whole = fit_asymmetric_gaussian(contrast)
    features = [whole.shape, (whole.left_variance + whole.right_variance) / 2]
    neighbours = (
        contrast[:, :-1] * contrast[:, 1:],
        contrast[:-1, :] * contrast[1:, :],
        contrast[:-1, :-1] * contrast[1:, 1:],
        contrast[1:, :-1] * contrast[:-1, 1:],
    )
    for product in neighbours:
        fit = fit_asymmetric_gaussian(product)
        features += [fit.shape, fit.mean, fit.left_variance, fit.right_variance]
    return features


def brisque_features(image_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The 36 features of an RGB picture.

    Raises:
        ValueError: it is not H x W x 3 of uint8, or a side is below `MIN_SIDE_PX`.
        NoTextureError: it is constant, or nearly so.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(f"expected H x W x 3 of uint8, got {image_HWC.shape} {image_HWC.dtype}")
    if min(image_HWC.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(
            f"picture is {image_HWC.shape[:2]}, below {MIN_SIDE_PX} pixels on a side; "
            "score a larger one"
        )
    gray_HW = cv2.transform(image_HWC.astype(np.float64) / 255, _LUMA_WEIGHTS)
    # Bicubic without smoothing first, as for the weights that we use.
    half_HW = cv2.resize(gray_HW, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    full = _scale_features(np.asarray(gray_HW, dtype=np.float64))
    return np.array(full + _scale_features(np.asarray(half_HW, dtype=np.float64)))


@dataclass(frozen=True, kw_only=True, slots=True)
class SupportVectorRegression:
    """A regression with a radial kernel: sum of weight * exp(-gamma * distance^2), minus rho.

    `vectors` is N x D and `weights` is N.
    """

    vectors: NDArray[np.float64]
    weights: NDArray[np.float64]
    gamma: float
    rho: float

    def predict(self, features: NDArray[np.float64]) -> float:
        distances = np.square(self.vectors - features).sum(axis=1)
        return float(self.weights @ np.exp(-self.gamma * distances) - self.rho)


def read_libsvm(path: Path, num_features: int) -> SupportVectorRegression:
    """Read libsvm's text format.

    Raises:
        ValueError: the model is not an epsilon regression with a radial kernel.
    """
    header_text, _, body = path.read_text("ascii").partition("\nSV\n")
    header = dict(line.split(" ", 1) for line in header_text.splitlines())
    if (header.get("svm_type"), header.get("kernel_type")) != ("epsilon_svr", "rbf"):
        raise ValueError(f"{path} is not an epsilon_svr model with an rbf kernel")
    lines = body.splitlines()
    weights = np.zeros(len(lines))
    vectors = np.zeros((len(lines), num_features))
    for row, line in enumerate(lines):
        weight, *entries = line.split()
        weights[row] = float(weight)
        for entry in entries:
            index, value = entry.split(":")
            vectors[row, int(index) - 1] = float(value)
    return SupportVectorRegression(
        vectors=vectors,
        weights=weights,
        gamma=float(header["gamma"]),
        rho=float(header["rho"]),
    )


class Brisque:
    """Lower is better: about 0 for a pristine photograph, and 100 for a badly distorted one."""

    backend = "embedded:brisque-0.2.0"

    def __init__(self) -> None:
        self._min = np.array(_FEATURE_MIN)
        self._range = np.array(_FEATURE_MAX) - self._min
        path = packaged_file("brisque", "models/svm.txt", _SVM_SHA256)
        self._regression = read_libsvm(path, num_features=len(_FEATURE_MIN))

    def score(self, image_HWC: NDArray[np.uint8]) -> float | None:
        """The score of an RGB picture, or None where it is constant and has no texture to judge.

        It can fall slightly outside 0 to 100. Raises ValueError as `brisque_features` does.
        """
        try:
            features = brisque_features(image_HWC)
        except NoTextureError:
            return None
        return self._regression.predict(2 * (features - self._min) / self._range - 1)
