"""When failed workers are started again, as Ray Train's controller asks it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_checkpoint import save
from training.errors import DataError, StoppedError
from training.failures import Retries, WorkersFailedError
from training.run_directory import RunDirectory

LOST: dict[int, Exception] = {1: ConnectionError("the process died\nof kill -9")}


def fail(retries: Retries, failures: dict[int, Exception]) -> None:
    context: Any = None
    retries.after_exception(context, failures)


def test_workers_are_started_again_while_checkpoints_come(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    retries = Retries(tmp_path, ("t2i", "t2v"), max_failures=1)
    checkpoints = run.stage("t2v").checkpoints
    for step in (3, 6, 9):
        save(checkpoints, step)
        fail(retries, LOST)
    with pytest.raises(
        WorkersFailedError, match=r"failed 2 times .* max_worker_failures=1.*kill -9"
    ):
        fail(retries, LOST)
    lines = [json.loads(line) for line in run.failures.read_text().splitlines()]
    assert [line["checkpoints"]["t2v"] for line in lines] == [3, 6, 9, 9]
    assert lines[0]["workers"] == {"1": "ConnectionError: the process died\nof kill -9"}


def test_a_mistake_is_not_tried_again_and_a_machine_that_leaves_is_no_failure(
    tmp_path: Path,
) -> None:
    retries = Retries(tmp_path, ("t2i",), max_failures=0)
    fail(retries, {0: StoppedError("saved"), 1: ConnectionError("gone")})
    with pytest.raises(DataError, match="no clips"):
        fail(retries, {0: DataError("no clips"), **LOST})
