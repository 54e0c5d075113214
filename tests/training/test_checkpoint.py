import json
import shutil
from pathlib import Path

import pytest
import torch

from training.checkpoint import Snapshot, file_sha256, latest_step, load_average, load_checkpoint
from training.checkpoint_writer import CheckpointWriter, KeepPolicy
from training.distribute import Worker
from training.errors import CheckpointError
from training.shards import local

SETTINGS = {"stage": "t2v", "train": {"seed": 0}}


def snapshot(step: int) -> Snapshot:
    return Snapshot(
        step=step,
        seconds=1.5 * step,
        kinds={
            "weights": {"w": torch.full((2, 3), float(step))},
            "average": {"w": torch.full((2, 3), step / 2)},
            "optimizer": {"w/momentum": torch.arange(6.0).view(2, 3).T},
        },
    )


def save(folder: Path, step: int, keep: int = 2, every: int | None = None) -> Path:
    policy = KeepPolicy(last=keep, every_steps=every)
    with CheckpointWriter(folder, Worker(), settings=SETTINGS, keep=policy) as writer:
        writer.save(snapshot(step))
    return folder / f"step-{step:06d}"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)

    assert loaded is not None
    assert (loaded.step, loaded.seconds) == (7, 10.5)
    assert latest_step(tmp_path) == 7
    for kind, tensors in snapshot(7).kinds.items():
        found = loaded.whole(kind)
        assert found.keys() == tensors.keys()
        assert all(found[name].equal(local(tensor)) for name, tensor in tensors.items())
    assert load_average(path)["w"].equal(torch.full((2, 3), 3.5))


def test_a_checkpoint_of_version_1_is_read(tmp_path: Path) -> None:
    """It gave the hash of each file and nothing else."""
    path = save(tmp_path, 7)
    state = json.loads((path / "state.json").read_text())
    state["files"] = {name: entry["sha256"] for name, entry in state["files"].items()}
    (path / "state.json").write_text(json.dumps(state))
    latest = {
        "format_version": 1,
        "directory": path.name,
        "state_sha256": file_sha256(path / "state.json"),
    }
    (tmp_path / "latest.json").write_text(json.dumps(latest))
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)
    assert loaded is not None
    assert loaded.whole("average")["w"].equal(torch.full((2, 3), 3.5))


def test_a_snapshot_is_copied_before_training_goes_on(tmp_path: Path) -> None:
    taken = snapshot(3)
    policy = KeepPolicy(last=1)
    with CheckpointWriter(tmp_path, Worker(), settings=SETTINGS, keep=policy) as writer:
        writer.save(taken)
        local(taken.kinds["weights"]["w"]).zero_()
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)
    assert loaded is not None
    assert loaded.whole("weights")["w"].equal(torch.full((2, 3), 3.0))


def test_a_failed_save_is_told_at_the_next(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, Worker(), settings=SETTINGS, keep=KeepPolicy(last=1))
    writer.save(snapshot(1))
    writer.wait()
    shutil.rmtree(tmp_path)
    writer.save(snapshot(2))
    with pytest.raises(FileNotFoundError):
        writer.save(snapshot(3))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    loaded = load_checkpoint(tmp_path, settings=SETTINGS)
    assert loaded is not None
    with pytest.raises(CheckpointError, match="another network"):
        loaded.load_into("weights", {"w": torch.zeros(2, 4)})
    with pytest.raises(CheckpointError, match="holds no rows 2 to 3 of weights w"):
        loaded.load_into("weights", {"w": torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match="holds no rows"):
        loaded.load_into("weights", {"other": torch.zeros(2, 3)})


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest_step(tmp_path) is None
    assert load_checkpoint(tmp_path, settings=SETTINGS) is None


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest.json",
        "step-000003",
        "step-000004",
    ]


def test_some_stay_for_good(tmp_path: Path) -> None:
    for step in (2, 3, 4, 5, 6, 7):
        save(tmp_path, step, keep=1, every=3)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-000003",
        "step-000006",
        "step-000007",
    ]


def test_of_every_so_many_steps_the_first_checkpoint_stays_wherever_it_fell(tmp_path: Path) -> None:
    for step in (2, 4, 5, 8, 9, 10):
        save(tmp_path, step, keep=1, every=3)
    kept = sorted(path.name for path in tmp_path.glob("step-*"))
    assert kept == ["step-000004", "step-000008", "step-000009", "step-000010"]


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


@pytest.mark.parametrize("kind", ["state", "weights", "average"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, 5) / ("state.json" if kind == "state" else f"{kind}.safetensors")

    def load() -> None:
        loaded = load_checkpoint(tmp_path, settings=SETTINGS)
        assert loaded is not None
        loaded.load_into("weights", {"w": torch.zeros(2, 3)})
        loaded.load_into("average", {"w": torch.zeros(2, 3)})

    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its recorded hash"):
        load()
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(CheckpointError, match="other settings"):
        load_checkpoint(tmp_path, settings={**SETTINGS, "train": {"seed": 1}})
