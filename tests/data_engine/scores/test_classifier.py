import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.scores.classifier import (
    ImageNetClassifier,
    classifier_input,
    imagenet_labels,
)


def test_there_is_a_short_name_for_each_class() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[282], labels[999]) == ("tench", "tiger cat", "toilet paper")
    assert max(len(label.split()) for label in labels) <= 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", {"tabby cat", "tiger cat", "Egyptian Mau"}),
        ("coffee", {"espresso"}),
        ("rocket", {"missile"}),
        ("tripod", {"tripod"}),
        ("palace", {"palace", "bell tower"}),
        ("flower", {"daisy"}),
    ],
)
def test_photographs_are_recognised(
    classifier: ImageNetClassifier,
    photos: dict[str, NDArray[np.uint8]],
    name: str,
    expected: set[str],
) -> None:
    probabilities_1K = classifier.probabilities([photos[name]])
    assert classifier.labels[int(probabilities_1K[0].argmax())] in expected


def test_a_picture_gets_the_same_numbers_in_any_company(
    classifier: ImageNetClassifier, photos: dict[str, NDArray[np.uint8]]
) -> None:
    together = classifier.probabilities([photos["cat"], photos["coffee"]])
    assert together.shape == (2, 1000)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(together[1:], classifier.probabilities([photos["coffee"]]))


def test_features_tell_a_mirrored_picture_from_another_one(
    classifier: ImageNetClassifier, photos: dict[str, NDArray[np.uint8]]
) -> None:
    cat, coffee = photos["cat"], photos["coffee"]
    features_ND = classifier.features([cat, cat[:, ::-1], coffee])
    assert features_ND.shape == (3, 1280)
    unit_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    assert unit_ND[0] @ unit_ND[1] > 0.9 > 0.6 > unit_ND[0] @ unit_ND[2]


def test_input_is_the_central_square_on_the_scale_of_training() -> None:
    image = np.zeros((400, 800, 3), dtype=np.uint8)
    image[:, 225:575] = 255
    pixels = classifier_input(image)
    assert pixels.shape == (3, 224, 224)
    np.testing.assert_array_equal(pixels, np.float32(1.0))


def test_no_pictures_give_no_rows(classifier: ImageNetClassifier) -> None:
    assert classifier.probabilities([]).shape == (0, 1000)
    assert classifier.features([]).shape == (0, 1280)
