import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.scores.brisque import (
    Brisque,
    brisque_features,
    fit_asymmetric_gaussian,
    read_libsvm,
)

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def brisque() -> Brisque:
    return Brisque()


def blur(image: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), dtype=np.uint8)


def add_noise(image: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 25, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def compress(image: Picture) -> Picture:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 8])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)


def upscale(image: Picture) -> Picture:
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize("degrade", [blur, add_noise, compress, upscale])
def test_a_degraded_photograph_scores_worse(
    brisque: Brisque, photos: dict[str, Picture], degrade: Callable[[Picture], Picture]
) -> None:
    for name in ("cat", "coffee", "astronaut", "rocket", "palace", "flower"):
        pristine, degraded = brisque.score(photos[name]), brisque.score(degrade(photos[name]))
        assert pristine is not None
        assert degraded is not None
        assert pristine < 20, name
        assert degraded > pristine + 25, name


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_constant_picture_has_no_score(brisque: Brisque, level: int) -> None:
    assert brisque.score(np.full((72, 128, 3), level, dtype=np.uint8)) is None


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4), (8, 64, 3)])
def test_a_picture_that_cannot_be_judged_is_refused(
    brisque: Brisque, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"picture|expected"):
        brisque.score(np.zeros(shape, dtype=np.uint8))


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_features_and_score_equal_those_of_the_brisque_package(
    brisque: Brisque, photos: dict[str, Picture]
) -> None:
    from brisque import BRISQUE
    from skimage.color import rgb2gray

    package = BRISQUE()
    image = photos["cat"]
    gray = rgb2gray(image)
    half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    expected = [
        float(np.ravel(value)[0])
        for scale in (gray, half)
        for value in package.calculate_brisque_features(scale)
    ]
    np.testing.assert_allclose(brisque_features(image), expected, rtol=1e-4, atol=1e-6)
    score = brisque.score(image)
    assert score == pytest.approx(package.calculate_image_quality_score(expected), abs=0.02)


@pytest.mark.parametrize(("shape", "draw"), [(2.0, "normal"), (1.0, "laplace")])
def test_the_fit_recovers_known_distributions(shape: float, draw: str) -> None:
    values = getattr(np.random.default_rng(1), draw)(0.0, 0.5, 400_000)
    fit = fit_asymmetric_gaussian(values)
    assert fit.shape == pytest.approx(shape, rel=0.02)
    assert fit.mean == pytest.approx(0, abs=0.01)
    assert fit.left_variance == pytest.approx(values.var(), rel=0.02)


def test_the_fit_sees_which_side_is_wider() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 100_000)
    fit = fit_asymmetric_gaussian(np.where(values > 0, 3 * values, values))
    assert fit.right_variance == pytest.approx(9 * fit.left_variance, rel=0.05)
    assert fit.mean > 0


def test_a_support_vector_model_is_read_and_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "svm.txt"
    path.write_text(
        "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.5\nnr_class 2\ntotal_sv 2\nrho 3\nSV\n"
        "2 1:1 3:-1\n-1 2:0.5\n"
    )
    model = read_libsvm(path, num_features=3)
    expected = 2 * math.exp(-0.5 * 2) - math.exp(-0.5 * 0.25) - 3
    assert model.predict(np.zeros(3)) == pytest.approx(expected)


def test_another_kind_of_support_vector_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "svm.txt"
    path.write_text("svm_type c_svc\nkernel_type rbf\nSV\n")
    with pytest.raises(ValueError, match="epsilon_svr"):
        read_libsvm(path, num_features=3)
