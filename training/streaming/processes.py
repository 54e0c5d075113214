"""Work done ahead by processes that may die or stall.

torch's `DataLoader` notices a dead process by a signal, which it raises wherever the main thread is at that moment, or,
in the threads in which Ray runs a training function, by the time-out alone. Here the end of a process is waited for
together with its answer.
"""

import multiprocessing.connection
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

import torch
import torch.multiprocessing

from training.errors import DataError

Answer = TypeVar("Answer")


class ProcessLostError(Exception):
    """A process ended, or did not answer in time."""


def ahead(
    work: Callable[[int], Answer],
    steps: Sequence[int],
    num_processes: int,
    num_ahead: int,
    timeout_s: float,
) -> Iterator[Answer]:
    """`work(step)` of every step in order; each process has up to `num_ahead` of them done or under way.

    Raises:
        DataError: what `work` raised.
        ProcessLostError: a process ended, by a signal or by any other error of `work`, or was late.
    """
    workers = [_Worker.start(work) for _ in range(min(num_processes, len(steps)))]
    try:
        for number, step in enumerate(steps[: len(workers) * num_ahead]):
            workers[number % len(workers)].ask(step)
        for number in range(len(steps)):
            worker = workers[number % len(workers)]
            answer = worker.answer(timeout_s)
            following = number + len(workers) * num_ahead
            if following < len(steps):
                worker.ask(steps[following])
            yield answer
    finally:
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.end()


@dataclass(frozen=True)
class _Worker(Generic[Answer]):
    process: SpawnProcess
    connection: "Connection[int, Answer | DataError]"

    @classmethod
    def start(cls, work: Callable[[int], Answer]) -> "_Worker[Answer]":
        # Forked processes would inherit the threads of Ray and torch in the middle of what they do. torch's own
        # module lets tensors pass through shared memory.
        context = torch.multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_answer, args=(work, theirs), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)

    def ask(self, step: int) -> None:
        try:
            self.connection.send(step)
        except OSError as error:
            raise ProcessLostError(self._how_it_ended()) from error

    def answer(self, timeout_s: float) -> Answer:
        ready = multiprocessing.connection.wait([self.connection, self.process.sentinel], timeout_s)
        if not ready:
            raise ProcessLostError(f"process {self.process.pid} did not answer in {timeout_s:g} s")
        if self.connection not in ready:
            raise ProcessLostError(self._how_it_ended())
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            # An answer that lies ready is lost with its process, which holds the other end of the shared memory.
            raise ProcessLostError(self._how_it_ended()) from error
        if isinstance(answer, DataError):
            raise answer
        return answer

    def _how_it_ended(self) -> str:
        self.process.join(timeout=1)
        return f"process {self.process.pid} ended with exit code {self.process.exitcode}"

    def end(self) -> None:
        """End a process whose connection is closed; an idle one ends by itself."""
        self.process.join(timeout=1)
        self.process.kill()
        self.process.join()


def _answer(
    work: Callable[[int], Answer], connection: "Connection[Answer | DataError, int]"
) -> None:
    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole group; whoever asks answers it
    while True:
        try:
            step = connection.recv()
        except EOFError:  # whoever asks has ended
            return
        try:
            answer = work(step)
        except DataError as error:
            answer = error
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
