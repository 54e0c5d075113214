"""What to do about steps whose loss or gradient jumps: clip them, or leave them out."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from training.errors import TrainError
from training.step_lines import forget_steps_after

logger = logging.getLogger(__name__)

NORM_DECAY = 0.99
"""Of the running mean and spread of gradient norms."""
NUM_NORMS_BEFORE = 20
"""Norms to have seen before one is called unusual."""


class AdaptiveClip:
    """Bounds the gradient norm by what it was lately: mean plus some standard deviations, as running averages.

    `state_3` (sum of weights, of norms, of their squares; float64) is part of every checkpoint.
    """

    def __init__(self, num_deviations: float) -> None:
        self._num_deviations = num_deviations
        self.state_3 = torch.zeros(3, dtype=torch.float64)

    def bound(self) -> float:
        """The largest usual norm; infinity at first."""
        weight, total, squares = self.state_3.tolist()
        # The weights of n norms add up to 1 - decay^n.
        if weight < 1 - NORM_DECAY**NUM_NORMS_BEFORE:
            return math.inf
        mean = total / weight
        return mean + self._num_deviations * math.sqrt(max(0.0, squares / weight - mean**2))

    def take_in(self, norm: float) -> None:
        """Count a norm, one above the bound as the bound: a spike is not to make the next one usual."""
        counted = min(norm, self.bound())
        new_3 = torch.tensor([1.0, counted, counted**2], dtype=torch.float64)
        self.state_3.lerp_(new_3, 1 - NORM_DECAY)


class SkippedSteps:
    """Leaves out steps that are not finite and writes down their batches, until there are too many in a row."""

    def __init__(
        self, path: Path | None, stage_name: str, most_in_a_row: int, first_step: int
    ) -> None:
        """`path` is where to write, on one worker; all workers come to the same decisions."""
        self._path = path
        self._stage_name = stage_name
        self._most_in_a_row = most_in_a_row
        self._num_in_a_row = 0
        if path is not None:
            forget_steps_after(path, first_step)

    def is_finite(self, loss: float, grad_norm: float) -> bool:
        """Whether to take this step; ends a row of skipped ones if so."""
        is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if is_finite:
            self._num_in_a_row = 0
        return is_finite

    def skip(self, step: int, loss: float, grad_norm: float, clip_ids: Sequence[str]) -> None:
        """Write down a step that is left out; `step` counts from 1.

        Raises:
            TrainError: it is one too many.
        """
        self._num_in_a_row += 1
        if self._path is not None:
            # As text: JSON has no word for what is not finite.
            line = {
                "step": step,
                "loss": str(loss),
                "grad_norm": str(grad_norm),
                "clip_ids": list(clip_ids),
            }
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            logger.warning(
                "step %d: skipped, loss %s and gradient norm %s; its clips are in %s",
                step,
                loss,
                grad_norm,
                self._path,
            )
        if self._num_in_a_row > self._most_in_a_row:
            raise TrainError(
                f"stage {self._stage_name}, step {step}: loss {loss} and gradient norm {grad_norm} must be "
                f"finite, and were not in {self._num_in_a_row} steps in a row, of which max_skipped_steps allows "
                f"{self._most_in_a_row}; look at the clips in skipped_steps.jsonl, or train with a lower learning "
                "rate or a longer warm-up in another run"
            )
