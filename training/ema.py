"""Exponential moving average of the weights: what is sampled from and what the next stage starts from."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """`average = decay * average + (1 - decay) * weights` after every optimizer step.

    Starts as a copy of the weights, so after n steps from weights w0 it holds
    decay^n w0 + (1 - decay) * sum over i of decay^(n - i) w_i.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = dict(model.named_parameters())
        self._average = {name: w.detach().clone() for name, w in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights of the model given at construction."""
        for name, average in self._average.items():
            average.lerp_(self._weights[name], 1.0 - self._decay)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert state.keys() == self._average.keys(), "checked by the caller against the model"
        for name, average in self._average.items():
            average.copy_(state[name])
