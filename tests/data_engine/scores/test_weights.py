import pytest

from data_engine.errors import JobError
from data_engine.scores.weights import packaged_file


def test_a_missing_package_is_named() -> None:
    with pytest.raises(JobError, match="no_such_package"):
        packaged_file("no_such_package", "model.bin", "0" * 64)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(JobError, match=r"models/absent\.txt"):
        packaged_file("brisque", "models/absent.txt", "0" * 64)


def test_other_bytes_than_the_pinned_ones_are_refused() -> None:
    with pytest.raises(JobError, match="sha256"):
        packaged_file("brisque", "models/svm.txt", "0" * 64)
