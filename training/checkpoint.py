"""Checkpoints that exist completely or not at all: safetensors and JSON, no pickle.

    checkpoints/latest.json                      which checkpoint counts, and the hash of its state.json
    checkpoints/step-000123/state.json           step, settings, and the hash of every tensor file
    checkpoints/step-000123/{weights,average,optimizer}.safetensors

A checkpoint is written under another name, synced, renamed, and only then named in `latest.json`:
what a killed process leaves behind is never read. There is no generator state, because every random
number is a function of the seed and the step (`randomness.py`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.errors import CheckpointError

FORMAT_VERSION = 1
LATEST_NAME = "latest.json"
STATE_NAME = "state.json"
AVERAGE_NAME = "average.safetensors"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a stage needs to go on as if it had never stopped."""

    step: int
    """Optimizer steps done."""
    seconds: float
    """Spent on them, over all sessions."""
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_checkpoint(
    folder: Path, snapshot: Snapshot, *, settings: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint, make it the latest and delete all but the last `keep`.

    `settings` are plain values; a checkpoint can only be loaded under equal ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{snapshot.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    for leftover in (temporary, final):
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir()
    for name, tensors in _tensor_files(snapshot).items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / name)
        _sync(temporary / name)
    state = {
        "step": snapshot.step,
        "seconds": snapshot.seconds,
        "settings": dict(settings),
        "files": {name: file_sha256(temporary / name) for name in _tensor_files(snapshot)},
    }
    write_json(temporary / STATE_NAME, state)
    _sync(temporary)
    temporary.rename(final)
    _sync(folder)
    latest = {
        "format_version": FORMAT_VERSION,
        "directory": final.name,
        "state_sha256": file_sha256(final / STATE_NAME),
    }
    write_json(folder / LATEST_NAME, latest)
    _prune(folder, snapshot.step, keep)
    return final


def load_checkpoint(folder: Path, *, settings: Mapping[str, Any]) -> Snapshot | None:
    """The latest complete checkpoint of a folder, or None where there is none.

    Raises:
        CheckpointError: `latest.json` is damaged or of another version, a file does not match its
            hash, or the checkpoint was made under other settings.
    """
    latest_path = folder / LATEST_NAME
    if not latest_path.exists():
        return None
    latest = _read_json(latest_path)
    if latest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{latest_path} has format_version {latest.get('format_version')!r}, this code reads "
            f"{FORMAT_VERSION}; use the version that wrote it, or start another run"
        )
    checkpoint = folder / str(latest.get("directory"))
    _check_hash(checkpoint / STATE_NAME, latest.get("state_sha256"))
    state = _read_json(checkpoint / STATE_NAME)
    if state["settings"] != dict(settings):
        raise CheckpointError(
            f"{checkpoint} was made with other settings; choose another run, or restore the settings"
        )
    files = {name: _load_tensors(checkpoint / name, sha) for name, sha in state["files"].items()}
    return Snapshot(
        step=state["step"],
        seconds=state["seconds"],
        weights=files["weights.safetensors"],
        average=files[AVERAGE_NAME],
        optimizer=files["optimizer.safetensors"],
    )


def load_average(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of one checkpoint directory, checked against their hash.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    state = _read_json(checkpoint / STATE_NAME)
    return _load_tensors(checkpoint / AVERAGE_NAME, state["files"][AVERAGE_NAME])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _tensor_files(snapshot: Snapshot) -> dict[str, Mapping[str, Tensor]]:
    return {
        "weights.safetensors": snapshot.weights,
        AVERAGE_NAME: snapshot.average,
        "optimizer.safetensors": snapshot.optimizer,
    }


def _prune(folder: Path, step: int, keep: int) -> None:
    # A higher step is left over from a run that was killed before it could name it in latest.json.
    steps = {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*")}
    kept = sorted(found for found in steps if found <= step)[-keep:]
    for found, path in steps.items():
        if found not in kept:
            shutil.rmtree(path)


def _load_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    _check_hash(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _check_hash(path: Path, expected: str | None) -> None:
    if not path.exists():
        raise CheckpointError(f"{path} is missing; the checkpoint is damaged, start another run")
    if file_sha256(path) != expected:
        raise CheckpointError(
            f"{path} does not match its recorded hash; the checkpoint is damaged, start another run"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; the checkpoint is damaged") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not readable JSON ({error}); start another run"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; start another run")
    return content


def file_sha256(path: Path) -> str:
    """The SHA-256 of the bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
