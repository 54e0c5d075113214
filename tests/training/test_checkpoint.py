import json
from pathlib import Path

import pytest
import torch

from training.checkpoint import Snapshot, load_average, load_checkpoint, save_checkpoint
from training.errors import CheckpointError

SETTINGS = {"stage": "t2v", "train": {"seed": 0}}


def snapshot(step: int) -> Snapshot:
    return Snapshot(
        step=step,
        seconds=1.5 * step,
        weights={"w": torch.full((2, 3), float(step))},
        average={"w": torch.full((2, 3), step / 2)},
        optimizer={"w/momentum": torch.arange(6.0).view(2, 3).T},
    )


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(folder, snapshot(step), settings=SETTINGS, keep=keep)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)

    assert loaded is not None
    assert (loaded.step, loaded.seconds) == (7, 10.5)
    assert loaded.weights["w"].equal(snapshot(7).weights["w"])
    assert loaded.optimizer["w/momentum"].equal(snapshot(7).optimizer["w/momentum"])
    assert load_average(path)["w"].equal(snapshot(7).average["w"])


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, settings=SETTINGS) is None


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest.json",
        "step-000003",
        "step-000004",
    ]


@pytest.mark.parametrize("leftover", [".step-000009.tmp", "step-000009"])
def test_what_a_killed_writer_leaves_is_ignored_and_overwritten(
    tmp_path: Path, leftover: str
) -> None:
    save(tmp_path, 5)
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "weights.safetensors").write_bytes(b"half")
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)
    assert loaded is not None
    assert loaded.step == 5

    save(tmp_path, 9)
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)
    assert loaded is not None
    assert loaded.step == 9


def test_leftovers_of_a_longer_run_do_not_displace_the_newest(tmp_path: Path) -> None:
    (tmp_path / "step-000900").mkdir()
    save(tmp_path, 5)
    assert not (tmp_path / "step-000900").exists()
    assert (tmp_path / "step-000005").exists()


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    latest = tmp_path / "latest.json"
    latest.write_text(json.dumps({**json.loads(latest.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match="format_version 99"):
        load_checkpoint(tmp_path, settings=SETTINGS)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_corrupt_manifest_is_refused(tmp_path: Path, content: str) -> None:
    save(tmp_path, 5)
    (tmp_path / "latest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"latest\.json"):
        load_checkpoint(tmp_path, settings=SETTINGS)


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "average.safetensors"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 5) / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its recorded hash"):
        load_checkpoint(tmp_path, settings=SETTINGS)
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_checkpoint(tmp_path, settings=SETTINGS)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(CheckpointError, match="other settings"):
        load_checkpoint(tmp_path, settings={**SETTINGS, "train": {"seed": 1}})
