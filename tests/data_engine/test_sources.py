import json
from pathlib import Path

import pytest

from data_engine.errors import SourceError
from data_engine.sources import list_sources


def test_a_folder_gives_its_videos_in_order(tmp_path: Path) -> None:
    for name in ("b c.MP4", "a.v1.mkv", "sub/Фильм.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(file.path.relative_to(tmp_path)) for file in list_sources(str(tmp_path))]
    assert found == ["a.v1.mkv", "b c.MP4", "sub/Фильм.webm"]


def test_a_glob_and_a_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.bin"):
        (tmp_path / name).touch()
    assert len(list_sources(str(tmp_path / "*.mp4"))) == 2
    assert len(list_sources(str(tmp_path / "c.bin"))) == 1


def test_a_link_to_a_listed_file_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    assert len(list_sources(str(tmp_path))) == 1


def test_nothing_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no videos; expected files ending in"):
        list_sources(str(tmp_path))
    with pytest.raises(SourceError, match=r"expected a file, a folder or a glob"):
        list_sources(str(tmp_path / "missing" / "*.mp4"))


def test_attribution_comes_from_the_file_beside_the_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "attributions.json").write_text(json.dumps({"a.mp4": "Jane Doe, CC BY 4.0"}))
    assert list_sources(str(tmp_path))[0].attribution == "Jane Doe, CC BY 4.0"
