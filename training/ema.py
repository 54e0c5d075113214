"""Exponential moving average of the weights: what is sampled from and what the next stage starts from."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.shards import HeldPart, held_like, local


class WeightAverage:
    """`average = decay * average + (1 - decay) * weights` after every optimizer step.

    Starts as a copy of the weights, so after n steps from weights w0 it holds
    decay^n w0 + (1 - decay) * sum over i of decay^(n - i) w_i. Of sharded weights (FSDP2) each worker
    averages its part; so make it after the model is sharded.
    """

    def __init__(self, model: nn.Module, decay: float, *, on_cpu: bool = False) -> None:
        """`on_cpu` keeps the average in host memory, at the cost of a copy of the weights per step."""
        self._decay = decay
        self._weights = dict(model.named_parameters())
        self._average = {name: _copy(w.detach(), on_cpu) for name, w in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights of the model given at construction."""
        for name, average in self._average.items():
            mine = local(average)
            mine.lerp_(local(self._weights[name]).to(mine.device), 1.0 - self._decay)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """While the block runs the model has the averaged weights; bit for bit its own afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._average.items():
            mine, weight = local(average), local(self._weights[name])
            kept = weight.clone()
            weight.copy_(mine)
            mine.copy_(kept)

    def state_dict(self) -> dict[str, Tensor | HeldPart]:
        """The average itself, not a copy; of sharded weights, this worker's parts."""
        return dict(self._average)


def _copy(weight: Tensor, on_cpu: bool) -> Tensor | HeldPart:
    mine = local(weight)
    # No DTensor: it would bring the part back to the device of its mesh.
    return held_like(weight, mine.to("cpu", copy=True) if on_cpu else mine.clone())
