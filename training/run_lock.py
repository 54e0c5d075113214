"""One trainer at a time writes a run. The kernel lets go of a lock when its process dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from training.errors import TrainError

_POLL_S = 0.2


@contextmanager
def locked(path: Path, *, wait_s: float = 0.0) -> Generator[None]:
    """Hold the lock of a file while the block runs; the file itself stays.

    `wait_s` is for a process that is about to end, such as a worker whose driver was killed.

    Raises:
        TrainError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        given_up_s = time.monotonic() + wait_s
        while not _take(file.fileno()):
            if time.monotonic() >= given_up_s:
                raise TrainError(
                    f"{path.parent} is being written by another trainer ({_holder(path)}); wait until it has "
                    "ended, stop it, or choose another run directory"
                )
            time.sleep(_POLL_S)
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.truncate(0)
        file.write(json.dumps(holder) + "\n")
        file.flush()
        yield


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):
        return "which has just begun"
