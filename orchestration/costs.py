"""What a materialisation took: seconds, cores that were held, and money where a price is stated."""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg

from orchestration.reporting import clear_failures

PRICE_VARIABLE = "STIV_PRICE_PER_HOUR"
"""Of the machine or the cluster that works for a run, in a currency of yours."""


class StepCost:
    """Of a step, from its start until it is asked."""

    def __init__(self, price_per_hour: float | None) -> None:
        self._price_per_hour = price_per_hour
        self._started_s = time.monotonic()
        self._num_cores = 0.0

    def note_cores(self) -> None:
        """Those of the Ray that works for this process now. A Ray job holds cores that are not known here."""
        if "ray" in sys.modules and (ray := sys.modules["ray"]).is_initialized():
            self._num_cores = float(ray.cluster_resources().get("CPU", 0))

    def metadata(self) -> dict[str, float]:
        """`step_seconds`, and what they cost as far as it is known."""
        seconds = time.monotonic() - self._started_s
        shown = {"step_seconds": round(seconds, 1)}
        if self._num_cores:
            shown["step_core_seconds"] = round(seconds * self._num_cores, 1)
        return shown | self.price("step", seconds)

    def price(self, name: str, seconds: float) -> dict[str, float]:
        """`NAME_cost` of so many seconds; nothing where no price is stated."""
        if self._price_per_hour is None:
            return {}
        return {f"{name}_cost": round(seconds / 3600 * self._price_per_hour, 6)}


@contextmanager
def step_cost() -> Generator[StepCost]:
    """The cost of the block, in which mistakes of the user are one line as in `clear_failures`."""
    cost = StepCost(_price_per_hour())
    with clear_failures():
        yield cost
    cost.note_cores()


def _price_per_hour() -> float | None:
    """What the environment states.

    Raises:
        dg.Failure: it is no price.
    """
    stated = os.environ.get(PRICE_VARIABLE, "")
    if not stated:
        return None
    try:
        price = float(stated)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise dg.Failure(
            description=f"{PRICE_VARIABLE} is {stated!r}; expected a number of at least 0, such as 2.5, or nothing",
            allow_retries=False,
        )
    return price
