"""Whether workers that failed are started again: decided in the controller of Ray Train, by what the run came to."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from modeling.errors import AutoencoderError, PretrainedError, TextEncoderError, WeightFlowError
from training.checkpoint import latest_step
from training.errors import StoppedError, TrainingError
from training.run_directory import RunDirectory

logger = logging.getLogger(__name__)

MISTAKES = (
    *(TrainingError, AutoencoderError, PretrainedError, TextEncoderError, WeightFlowError),
    *(PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError),
)
"""What a worker raises because of what it was given: it would raise it again."""


class WorkersFailedError(RuntimeError):
    """Workers failed again and again, and no checkpoint came in between."""


class Retries(UserCallback):
    """Lets Ray Train start failed workers again as long as the run advances, and a few times while it does not.

    Each failure is a line of RUN/failures.jsonl. Ray's own count would add up over a run of weeks, and would repeat
    what cannot succeed.
    """

    def __init__(self, run_dir: Path, stages: tuple[str, ...], max_failures: int) -> None:
        self._run = RunDirectory(run_dir)
        self._stages = stages
        self._max_failures = max_failures
        self._num_failures = 0
        self._reached = self._now_reached()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train when workers have failed; it gives up if this raises.

        Raises:
            TrainingError: a worker met a mistake in what it was given.
            WorkersFailedError: there were too many failures since the last new checkpoint.
        """
        del run_context
        reached = self._now_reached()
        has_advanced, self._reached = reached != self._reached, reached
        self._write_down(worker_exceptions)
        failures = list(worker_exceptions.values())
        if any(isinstance(failure, StoppedError) for failure in failures):
            # A machine is about to be taken away, and the run is saved: no failure.
            return
        for failure in failures:
            if isinstance(failure, MISTAKES):
                raise failure
        self._num_failures = 1 if has_advanced else self._num_failures + 1
        if self._num_failures > self._max_failures:
            told = str(failures[0]).strip().splitlines()
            raise WorkersFailedError(
                f"workers failed {self._num_failures} times without a new checkpoint in between, more often than "
                f"max_worker_failures={self._max_failures}; all of it is in {self._run.failures}; the last was "
                f"{type(failures[0]).__name__}: {told[-1] if told else 'no message'}"
            )

    def _now_reached(self) -> list[tuple[bool, int | None]]:
        """Of each stage, whether it is finished, and the step of its latest checkpoint."""
        directories = [self._run.stage(name) for name in self._stages]
        return [(d.result() is not None, latest_step(d.checkpoints)) for d in directories]

    def _write_down(self, worker_exceptions: dict[int, Exception]) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "checkpoints": dict(
                zip(self._stages, [step for _, step in self._reached], strict=True)
            ),
            "workers": {
                str(rank): f"{type(error).__name__}: {error}"
                for rank, error in worker_exceptions.items()
            },
        }
        with self._run.failures.open("a") as file:
            file.write(json.dumps(line) + "\n")
