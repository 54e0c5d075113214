"""Checkpoints that exist completely or not at all: safetensors and JSON, no pickle.

    checkpoints/latest.json                      which checkpoint counts, and the hash of its state.json
    checkpoints/step-000123/state.json           step, settings, and of every tensor file hash and contents
    checkpoints/step-000123/{weights,average,optimizer}.safetensors
    checkpoints/step-000123/weights-00001-of-00004.safetensors ...      where workers have parts (FSDP2)

A checkpoint is written under another name, synced, renamed, and only then named in `latest.json`:
what a killed process leaves behind is never read (`checkpoint_writer.py`). A part is some rows of a tensor, so
another number of workers reads the rows it needs. There is no generator state, because every random
number is a function of the seed and the step (`randomness.py`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import CheckpointError
from training.shards import HeldPart, local, part_of

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""In version 1 every tensor is whole and `files` gives nothing but the hash of each file."""
LATEST_NAME = "latest.json"
STATE_NAME = "state.json"

Kind = Literal["weights", "average", "optimizer"]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a stage needs to go on as if it had never stopped."""

    step: int
    """Optimizer steps done."""
    seconds: float
    """Spent on them, over all sessions."""
    kinds: Mapping[Kind, Mapping[str, Tensor | HeldPart]]
    """The tensors of this worker, or its parts of them."""


@dataclass(frozen=True)
class _Place:
    """Rows of a tensor in a file."""

    path: Path
    start: int
    stop: int


class StoredCheckpoint:
    """A complete checkpoint on disk. Files are checked against their hashes when something is read from them."""

    def __init__(self, path: Path, state: Mapping[str, Any]) -> None:
        self.path = path
        self.step: int = state["step"]
        self.seconds: float = state["seconds"]
        self._hashes: dict[Path, str] = {}
        self._parts: dict[Path, dict[str, Any]] = {}
        for name, entry in state["files"].items():
            # Version 1 gives the hash alone.
            known: dict[str, Any] = (
                {"sha256": entry, "parts": {}} if isinstance(entry, str) else dict(entry)
            )
            self._hashes[path / name] = known["sha256"]
            self._parts[path / name] = known["parts"]
        self._open = cache(self._open_checked)
        self._places = cache(self._find)

    def names(self, kind: Kind) -> list[str]:
        """The tensors there are.

        Raises:
            CheckpointError: a file is missing or damaged, like in all methods.
        """
        return list(self._places(kind))

    def load_into(self, kind: Kind, tensors: Mapping[str, Tensor | HeldPart]) -> None:
        """Fill tensors, or this worker's parts of them, with what is stored under their names."""
        for name, tensor in tensors.items():
            part = part_of(tensor)
            if part.start < part.stop:
                rows = self._rows(kind, name, part.start, part.stop)
                if rows.shape != local(tensor).shape:
                    raise CheckpointError(
                        f"{self.path} holds {kind} {name} as {tuple(rows.shape)}, the network has "
                        f"{tuple(local(tensor).shape)}; it is of another network"
                    )
                local(tensor).detach().copy_(rows)

    def whole(self, kind: Kind) -> dict[str, Tensor]:
        """All tensors of a kind in host memory, put together from their parts."""
        return dict(self.each(kind))

    def each(self, kind: Kind) -> Mapping[str, Tensor]:
        """All tensors of a kind, each put together when it is asked for."""
        return _Wholes(self, kind)

    def one(self, kind: Kind, name: str) -> Tensor:
        """A tensor put together from its parts; raises a KeyError if there is none of this name."""
        return self._rows(kind, name, 0, max(place.stop for place in self._places(kind)[name]))

    def _rows(self, kind: Kind, name: str, start: int, stop: int) -> Tensor:
        places = sorted(self._places(kind).get(name, []), key=lambda place: place.start)
        found: list[Tensor] = []
        done = start
        for place in places:
            if place.start <= done < min(place.stop, stop):
                file = self._open(place.path)
                if (place.start, place.stop) == (start, stop):
                    return file.get_tensor(name)
                end = min(stop, place.stop)
                found.append(file.get_slice(name)[done - place.start : end - place.start])
                done = end
        if done < stop:
            raise CheckpointError(
                f"{self.path} holds no rows {done} to {stop} of {kind} {name}; it is of another network"
            )
        return torch.cat(found)

    def _find(self, kind: Kind) -> dict[str, list[_Place]]:
        found: dict[str, list[_Place]] = {}
        for path, parts in self._parts.items():
            if path.name.split("-")[0].split(".")[0] != kind:
                continue
            file = _safe_open(path)
            for name in file.keys():  # noqa: SIM118  # an open file is no mapping
                shape = file.get_slice(name).get_shape()
                start, stop = 0, shape[0] if shape else 1
                if name in parts:
                    start, stop = parts[name]["start"], parts[name]["stop"]
                found.setdefault(name, []).append(_Place(path, start, stop))
        return found

    def _open_checked(self, path: Path) -> Any:
        _check_hash(path, self._hashes[path])
        return _safe_open(path)


class _Wholes(Mapping[str, Tensor]):
    """The tensors of a kind, read one at a time."""

    def __init__(self, stored: StoredCheckpoint, kind: Kind) -> None:
        self._stored = stored
        self._kind: Kind = kind
        self._names = stored.names(kind)

    def __getitem__(self, name: str) -> Tensor:
        return self._stored.one(self._kind, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_checkpoint(
    folder: Path, *, settings: Mapping[str, Any], normalise: Callable[[Any], Any] = dict
) -> StoredCheckpoint | None:
    """The latest complete checkpoint of a folder, or None where there is none.

    `normalise` brings settings that an older version wrote into the form of `settings`.

    Raises:
        CheckpointError: `latest.json` is damaged or of another version, or the checkpoint is damaged or was made
            under other settings.
    """
    latest_path = folder / LATEST_NAME
    if not latest_path.exists():
        return None
    latest = _read_json(latest_path)
    if latest.get("format_version") not in READABLE_VERSIONS:
        raise CheckpointError(
            f"{latest_path} has format_version {latest.get('format_version')!r}, this code reads "
            f"{READABLE_VERSIONS}; use the version that wrote it, or start another run"
        )
    checkpoint = folder / str(latest.get("directory"))
    _check_hash(checkpoint / STATE_NAME, latest.get("state_sha256"))
    state = _read_json(checkpoint / STATE_NAME)
    if normalise(state["settings"]) != dict(settings):
        raise CheckpointError(
            f"{checkpoint} was made with other settings; choose another run, or restore the settings"
        )
    stored = StoredCheckpoint(checkpoint, state)
    for kind in get_args(Kind):
        stored.names(kind)
    return stored


def latest_step(folder: Path) -> int | None:
    """The step of the latest complete checkpoint of a folder, or None where there is none.

    Raises:
        CheckpointError: `latest.json` is damaged.
    """
    path = folder / LATEST_NAME
    if not path.exists():
        return None
    directory = str(_read_json(path).get("directory"))
    number = directory.removeprefix("step-")
    if not number.isdecimal():
        raise CheckpointError(f"{path} names {directory!r}, no checkpoint; start another run")
    return int(number)


def load_average(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of one checkpoint directory, checked against their hash.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    return dict(open_average(checkpoint))


def open_average(checkpoint: Path) -> Mapping[str, Tensor]:
    """The same, each read when it is asked for: no more than one has to be in memory.

    Raises:
        CheckpointError: the checkpoint is missing or damaged; also when a tensor is read.
    """
    return StoredCheckpoint(checkpoint, _read_json(checkpoint / STATE_NAME)).each("average")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def _safe_open(path: Path) -> Any:
    if not path.exists():
        raise CheckpointError(f"{path} is missing; the checkpoint is damaged, start another run")
    try:
        return safe_open(path, framework="pt")
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


def sync(path: Path) -> None:
    """Have the system write a file or the entries of a directory to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
