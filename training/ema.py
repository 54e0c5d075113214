"""Exponential moving average of the weights: what is sampled from and what the next stage starts from."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.shards import local, sharded_like


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

    def state_dict(self) -> dict[str, Tensor]:
        """The average itself, not a copy; of sharded weights, this worker's parts as DTensors."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over an average divided as this one is."""
        assert state.keys() == self._average.keys(), "checked by the caller against the model"
        for name, average in self._average.items():
            local(average).copy_(local(state[name]))


def _copy(weight: Tensor, on_cpu: bool) -> Tensor:
    mine = local(weight)
    # The mesh stays that of the device: it only says which part this is, nothing is sent over it.
    return sharded_like(
        weight, mine.to("cpu", copy=True) if on_cpu else mine.clone(), tuple(weight.shape)
    )
