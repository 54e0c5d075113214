"""Work done ahead by processes."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch import Tensor

from training.errors import DataError
from training.streaming.processes import ProcessLostError, ahead

pytestmark = pytest.mark.slow


def work(step: int) -> Tensor:
    if step == 5:
        raise DataError("no clip in step 5")
    if step == 6:
        raise ZeroDivisionError
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 8:
        time.sleep(60)
    return torch.full((1000,), step)


def test_answers_come_in_order_and_no_process_stays() -> None:
    answers = list(ahead(work, [3, 1, 4, 1, 2], 2, 2, 60))
    assert [int(answer[0]) for answer in answers] == [3, 1, 4, 1, 2]
    assert not multiprocessing.active_children()


def test_who_stops_asking_leaves_no_process() -> None:
    answers = ahead(work, [0, 8, 8], 2, 2, 60)
    next(answers)
    assert len(multiprocessing.active_children()) == 2
    answers.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (5, DataError, "no clip in step 5"),
        (6, ProcessLostError, "exit code 1"),
        (7, ProcessLostError, "exit code -9"),
        (8, ProcessLostError, "did not answer in 5 s"),
    ],
)
def test_what_goes_wrong_is_told(step: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(ahead(work, [step], 1, 1, 5 if step == 8 else 120))
    assert not multiprocessing.active_children()
