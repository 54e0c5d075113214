"""Versions of the packages that a number depends on, for the name of its backend."""

from importlib.metadata import version


def package(name: str) -> str:
    """The name of an installed distribution and its version, as in `scikit-image 0.26.0`."""
    return f"{name} {version(name)}"
