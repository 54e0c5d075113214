"""Writes checkpoints (`checkpoint.py`) while training goes on: every worker its part, the first one the rest.

The tensors of a step are copied to host memory, and a thread writes the copy. Each worker leaves a report of
what it wrote in the unfinished checkpoint; when all reports are there the first worker adds `state.json`,
renames the directory, and names it in `latest.json`. No message is sent, so a thread may do it.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from training.checkpoint import (
    FORMAT_VERSION,
    LATEST_NAME,
    STATE_NAME,
    Kind,
    Snapshot,
    file_sha256,
    sync,
    write_json,
)
from training.distribute import Worker
from training.errors import CheckpointError
from training.shards import is_first_replica, local, part_of

logger = logging.getLogger(__name__)

CommitCallback = Callable[[Path, int], Collection[int]]
"""Called with each complete checkpoint and its step, on the first worker, from the thread that wrote it; gives the
steps of checkpoints that something still reads."""

REPORTS_TIMEOUT_S = 600.0
"""For the other workers to have written their parts; a checkpoint that takes longer is given up."""
REPORTS_POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """Which checkpoints stay: the last ones, and for good the first one of every `every_steps` steps."""

    last: int
    every_steps: int | None = None

    def kept(self, steps: Collection[int]) -> set[int]:
        """Those of the steps that stay. Applied again to what stayed and later steps, it keeps the same for good."""
        ordered = sorted(steps)
        kept = set(ordered[-self.last :])
        if self.every_steps is not None:
            first_of: dict[int, int] = {}
            for step in ordered:
                first_of.setdefault(step // self.every_steps, step)
            kept |= {step for number, step in first_of.items() if number > 0}
        return kept


@dataclass(frozen=True)
class _HostPart:
    """A worker's copy of its tensors, by kind, and what of the whole tensors they are."""

    tensors: dict[Kind, dict[str, Tensor]]
    parts: dict[Kind, dict[str, dict[str, Any]]]


class CheckpointWriter:
    """All workers make one together and save at the same steps. A context manager: it ends with the last save."""

    def __init__(
        self,
        folder: Path,
        worker: Worker,
        *,
        settings: Mapping[str, Any],
        keep: KeepPolicy,
        is_sharded: bool = False,
        on_commit: CommitCallback = lambda _path, _step: (),
    ) -> None:
        """`settings` are plain values; a checkpoint can only be loaded under equal ones."""
        self._folder = folder
        self._rank = worker.rank
        self._num_writers = worker.world_size if is_sharded else 1
        self._settings = dict(settings)
        self._keep = keep
        self._on_commit = on_commit
        self._buffers: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None
        if worker.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".step-*.tmp"):
                shutil.rmtree(leftover)
        self._session = _agreed_number(worker) if self._num_writers > 1 else 0

    def save(self, snapshot: Snapshot) -> None:
        """Copy a snapshot to host memory and begin to write it. Waits for the one before.

        Raises:
            CheckpointError: another worker did not write its part of the one before.
            OSError: the one before could not be written.
        """
        self.wait()
        if self._rank >= self._num_writers:
            return
        self._last = self._thread.submit(
            self._write, self._copy(snapshot), snapshot.step, snapshot.seconds
        )

    def wait(self) -> None:
        """Return when the last save is complete; raises what it raised."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except (CheckpointError, OSError):
            # What stopped the training is what to tell.
            if error is None:
                raise
            logger.exception("the last checkpoint could not be written")
        finally:
            self._thread.shutdown()

    def _copy(self, snapshot: Snapshot) -> _HostPart:
        copied = _HostPart({}, {})
        for kind, tensors in snapshot.kinds.items():
            copied.tensors[kind], copied.parts[kind] = {}, {}
            for name, tensor in tensors.items():
                part = part_of(tensor)
                if not is_first_replica(tensor) or part.start == part.stop:
                    continue
                copied.tensors[kind][name] = self._buffered(f"{kind}/{name}", local(tensor))
                if not part.is_whole:
                    copied.parts[kind][name] = {
                        "shape": part.shape,
                        "start": part.start,
                        "stop": part.stop,
                    }
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _buffered(self, key: str, tensor: Tensor) -> Tensor:
        """A copy in host memory that the next save uses again."""
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape:
            buffer = torch.empty(
                tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda
            )
            self._buffers[key] = buffer
        return buffer.copy_(tensor.detach(), non_blocking=True)

    def _write(self, copied: _HostPart, step: int, seconds: float) -> None:
        temporary = self._folder / f".step-{step:06d}.{self._session:x}.tmp"
        temporary.mkdir(exist_ok=True)
        files: dict[str, Any] = {}
        for kind, tensors in copied.tensors.items():
            path = temporary / self._file_name(kind)
            save_file(tensors, path)
            sync(path)
            files[path.name] = {"sha256": file_sha256(path), "parts": copied.parts[kind]}
        if self._num_writers > 1:
            write_json(temporary / _report_name(self._rank), files)
        if self._rank == 0:
            files |= self._reports(temporary)
            state = {"step": step, "seconds": seconds, "settings": self._settings, "files": files}
            write_json(temporary / STATE_NAME, state)
            self._commit(temporary, step)

    def _file_name(self, kind: Kind) -> str:
        if self._num_writers == 1:
            return f"{kind}.safetensors"
        return f"{kind}-{self._rank + 1:05d}-of-{self._num_writers:05d}.safetensors"

    def _reports(self, temporary: Path) -> dict[str, Any]:
        """What the other workers wrote, as soon as all of them have."""
        found: dict[str, Any] = {}
        given_up_s = time.monotonic() + REPORTS_TIMEOUT_S
        for rank in range(self._num_writers if self._num_writers > 1 else 0):
            path = temporary / _report_name(rank)
            while not path.exists():
                if time.monotonic() > given_up_s:
                    raise CheckpointError(
                        f"worker {rank} did not write its part of {temporary} within "
                        f"{REPORTS_TIMEOUT_S:.0f} s; all workers must see one file system"
                    )
                time.sleep(REPORTS_POLL_S)
            found |= json.loads(path.read_bytes())
            path.unlink()
        return found

    def _commit(self, temporary: Path, step: int) -> None:
        final = self._folder / f"step-{step:06d}"
        if final.exists():
            shutil.rmtree(final)
        sync(temporary)
        temporary.rename(final)
        sync(self._folder)
        latest = {
            "format_version": FORMAT_VERSION,
            "directory": final.name,
            "state_sha256": file_sha256(final / STATE_NAME),
        }
        write_json(self._folder / LATEST_NAME, latest)
        self._prune(step, still_read=self._on_commit(final, step))

    def _prune(self, step: int, still_read: Collection[int]) -> None:
        # A higher step is left over from a run that was killed before it could name it in latest.json.
        steps = {int(path.name.removeprefix("step-")): path for path in self._folder.glob("step-*")}
        kept = self._keep.kept([found for found in steps if found <= step]) | set(still_read)
        for found, path in steps.items():
            if found not in kept:
                shutil.rmtree(path)


def is_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether workers have parts of these tensors, not copies."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def _report_name(rank: int) -> str:
    return f".part-{rank:05d}.json"


def _agreed_number(worker: Worker) -> int:
    """A number of this session, the same on all workers: reports of a killed one must not be taken for new."""
    number = torch.tensor([time.time_ns() if worker.rank == 0 else 0], device=worker.device)
    torch.distributed.broadcast(number, src=0)
    return int(number)
