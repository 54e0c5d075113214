"""Progress for people: a bar in a terminal, a line now and then in a log."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 5.0


class ProgressReporter:
    """Told how far each named step has come, from any thread; shows it."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self._console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s: dict[str, float] = {}

    def update(self, step: str, done: float, total: float, note: str) -> None:
        """`note` says what is counted, or the latest number worth reading."""
        if self._bars is not None:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total, note=note)
            self._bars.update(self._tasks[step], completed=done, total=total, note=note)
            return
        now_s = time.monotonic()
        if done >= total or now_s - self._last_line_s.get(step, 0.0) >= _SECONDS_BETWEEN_LINES:
            self._last_line_s[step] = now_s
            self._console.print(f"{step:<10} {done:6.0f} of {total:.0f}  {note}", highlight=False)


@contextmanager
def progress_reporter(console: Console) -> Generator[ProgressReporter]:
    """A reporter that draws bars while the block runs, if `console` is a terminal."""
    if not console.is_terminal:
        yield ProgressReporter(console, None)
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}  {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield ProgressReporter(console, bars)
