from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_engine import append_only
from data_engine.append_only import SCORES, SCORES_KEY, compact, read_parts
from data_engine.tables import write_table


def write_part(folder: Path, name: str, clip_ids: list[str], goal: str = "goal") -> None:
    rows = [
        {
            "clip_id": clip_id,
            "scorer": "embedding",
            "version": "v1",
            "scores": {"consistency": {"value": 0.5, "backend": "test"}},
            "texts": ["a", "b"],
            "embedding": np.arange(4, dtype=np.float32),
        }
        for clip_id in clip_ids
    ]
    write_table(folder / f"{name}.parquet", rows, SCORES, goal)


def clip_ids(folder: Path, goal: str = "goal") -> list[str]:
    return sorted(row["clip_id"] for row in read_parts(folder, goal, ["clip_id"]))


def test_small_files_become_one_and_say_the_same(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_part(tmp_path, name, [f"{name}1", f"{name}2"])
    write_part(tmp_path, "other", ["x"], "another goal")
    before = list(read_parts(tmp_path, "goal"))
    compact(tmp_path, "goal", SCORES_KEY)
    assert len(list(tmp_path.iterdir())) == 2
    assert list(read_parts(tmp_path, "goal")) == before
    assert clip_ids(tmp_path, "another goal") == ["x"]

    # What comes later is added, and a second call changes nothing.
    write_part(tmp_path, "d", ["d1"])
    compact(tmp_path, "goal", SCORES_KEY)
    compact(tmp_path, "goal", SCORES_KEY)
    assert len(list(tmp_path.iterdir())) == 2
    assert clip_ids(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2", "d1"]


@pytest.mark.parametrize("num_left", [1, 2])
def test_killed_before_the_old_files_are_gone_it_keeps_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_left: int
) -> None:
    for name in ("a", "b", "c"):
        write_part(tmp_path, name, [f"{name}1"])
    unlink = Path.unlink
    removed: list[Path] = []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == 3 - num_left:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            compact(tmp_path, "goal", SCORES_KEY)
    assert set(clip_ids(tmp_path)) == {"a1", "b1", "c1"}
    compact(tmp_path, "goal", SCORES_KEY)
    assert clip_ids(tmp_path) == ["a1", "b1", "c1"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_large_file_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_only, "_SMALL_ROWS", 4)
    monkeypatch.setattr(append_only, "_ROWS_IN_MEMORY", 3)
    write_part(tmp_path, "large", [f"l{i}" for i in range(5)])
    written_ns = (tmp_path / "large.parquet").stat().st_mtime_ns
    write_part(tmp_path, "a", ["l1", "a1", "a2"])
    write_part(tmp_path, "b", ["b1"])
    compact(tmp_path, "goal", SCORES_KEY)
    assert (tmp_path / "large.parquet").stat().st_mtime_ns == written_ns
    (new,) = set(tmp_path.iterdir()) - {tmp_path / "large.parquet"}
    assert pq.read_metadata(new).num_rows == 3
    assert clip_ids(tmp_path) == ["a1", "a2", "b1", *(f"l{i}" for i in range(5))]
