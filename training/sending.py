"""Passes numbers to a sink from a thread of its own, and outlives the sink: an outage never stops training."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from training.sinks import Sink

logger = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Steps that are kept for a sink that cannot be reached; beyond them the oldest are dropped."""
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0
"""Between two tries; doubled from the first one on."""
CLOSE_TIMEOUT_S = 30.0
"""For a sink to take what still waits at the end of a stage."""


class Sending:
    """The way to one sink. What the sink lists in its `errors` is told once in an outage, and tried again."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: deque[tuple[int, Mapping[str, float]]] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._num_lost = 0
        self.seconds = 0.0
        """Of processor time that the thread has taken."""
        # A daemon: a sink that hangs must not keep the process alive.
        self._thread = threading.Thread(
            target=self._run, name=f"telemetry-{sink.name}", daemon=True
        )
        self._thread.start()

    def put(self, step: int, numbers: Mapping[str, float]) -> None:
        """Have numbers sent; returns at once, whatever the sink does."""
        with self._changed:
            self._waiting.append((step, numbers))
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self._num_lost += 1
            self._changed.notify()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Let the sink have what waits, for so long; tells what it did not take."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout_s)
        num_lost = self._num_lost + len(self._waiting)
        if num_lost or self._thread.is_alive():
            logger.warning(
                "%s did not take the metrics of %d steps; they are in metrics.jsonl",
                self._sink.name,
                max(1, num_lost),
            )

    def _run(self) -> None:
        if not self._persist(self._sink.open):
            return
        while (item := self._next()) is not None:
            step, numbers = item
            if not self._persist(partial(self._sink.log, step, numbers)):
                with self._changed:
                    self._num_lost += 1
            self.seconds = time.thread_time()
        self._persist(self._sink.close)
        self.seconds = time.thread_time()

    def _next(self) -> tuple[int, Mapping[str, float]] | None:
        """The oldest that waits; None when no more will come."""
        with self._changed:
            while not self._waiting and not self._closing.is_set():
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _persist(self, action: Callable[[], None]) -> bool:
        """Do it, again and again until the sink lets it; at the end of the stage once. Whether it was done."""
        pause_s = 0.0
        while True:
            is_last = self._closing.is_set()
            try:
                action()
            except self._sink.errors as error:
                if not pause_s:
                    logger.warning(
                        "%s takes no metrics (%s: %s); training goes on, and the last %d steps are kept for it",
                        self._sink.name,
                        type(error).__name__,
                        str(error).partition("\n")[0],
                        MAX_WAITING,
                    )
                if is_last:
                    return False
                pause_s = min(2 * pause_s or FIRST_PAUSE_S, LAST_PAUSE_S)
                self._closing.wait(pause_s)
                continue
            if pause_s:
                logger.warning("%s takes metrics again", self._sink.name)
            return True
