"""Real gloo workers for a test: processes that start fast, because torch is imported once for all of them."""

import multiprocessing
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch.testing._internal.distributed.fake_pg import FakeStore

PRELOADED = ["torch", "torch.distributed.fsdp", "torch.distributed.tensor", "training.loop"]


def run_workers(
    function: Callable[..., None], world_size: int, folder: Path, *arguments: Any
) -> None:
    """Call `function(rank, *arguments)` in each of so many processes that share a gloo group.

    Raises:
        ProcessRaisedException: one of them failed; the message has its traceback.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    meeting = folder / f"meeting-{world_size}"
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]  # torch has no types for it
        _work,
        args=(function, world_size, str(meeting), arguments),
        nprocs=world_size,
        start_method="forkserver",
    )


def _work(
    rank: int, function: Callable[..., None], world_size: int, meeting: str, arguments: Any
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    function(rank, *arguments)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@contextmanager
def pretended_workers(world_size: int, rank: int = 0) -> Generator[None]:
    """While the block runs, this process is one of so many: the others answer at once, with nothing."""
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=rank, world_size=world_size
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
