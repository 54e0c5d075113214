"""Finds model files inside installed packages, and checks that they are the pinned ones."""

import hashlib
import importlib.util
from pathlib import Path

from data_engine.errors import JobError


def packaged_file(package: str, path: str, sha256: str) -> Path:
    """The path of one file of an installed package, without importing that package.

    Raises:
        JobError: the package or the file is missing, or its bytes are not the pinned ones.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise JobError(
            f"package {package!r} is not installed, but its file {path} is needed; "
            "install the dependencies of this project"
        )
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise JobError(
            f"package {package!r} holds no file {path}; install the version that "
            "pyproject.toml asks for"
        )
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise JobError(
            f"{file} has sha256 {found}, expected {sha256}; install the version that "
            "pyproject.toml asks for"
        )
    return file
