"""AdaFactor as STIV trains with it (section 3.1): constant decays, momentum, absolute learning rate.

`torch.optim.Adafactor` has no momentum and lets the second-moment decay depend on the step;
here both decays are constant and there is no bias correction. The second moment of a tensor with
two or more dims is kept as its row and column means over the last two.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

TINY = 1e-30
"""Keeps the inverse square root finite where all gradients are zero."""


class AdaFactor(torch.optim.Optimizer):
    """Parameters without a gradient are left alone. State: float32, nothing but tensors."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        max_update_rms: float = 1.0,
    ) -> None:
        """`max_update_rms` bounds the root mean square of each tensor's update before momentum."""
        defaults: dict[str, Any] = {
            "lr": learning_rate,
            "beta1": beta1,
            "beta2": beta2,
            "max_update_rms": max_update_rms,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch also allows a closure, which no caller here has
        """Apply one update from the gradients; the learning rate is read from the group."""
        assert closure is None, "AdaFactor takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state.update(_empty_state(grad))
        update = grad * _inverse_root(state, grad, group["beta2"])
        rms = update.norm() / update.numel() ** 0.5
        update.div_((rms / group["max_update_rms"]).clamp_(min=1.0))
        momentum = state["momentum"].lerp_(update, 1.0 - group["beta1"])
        parameter.add_(momentum.to(parameter.dtype), alpha=-group["lr"])


def _empty_state(grad: Tensor) -> dict[str, Tensor]:
    momentum = torch.zeros_like(grad)
    if grad.dim() < 2:
        return {"momentum": momentum, "variance": torch.zeros_like(grad)}
    return {
        "momentum": momentum,
        "row_variance": grad.new_zeros((*grad.shape[:-1], 1)),
        "column_variance": grad.new_zeros((*grad.shape[:-2], 1, grad.shape[-1])),
    }


def _inverse_root(state: dict[str, Tensor], grad: Tensor, beta2: float) -> Tensor:
    """Advance the second moment and return 1 / sqrt of it, broadcastable to the gradient."""
    squared = grad.square()
    if "variance" in state:
        return state["variance"].lerp_(squared, 1.0 - beta2).clamp(min=TINY).rsqrt()
    rows = state["row_variance"].lerp_(squared.mean(dim=-1, keepdim=True), 1.0 - beta2)
    columns = state["column_variance"].lerp_(squared.mean(dim=-2, keepdim=True), 1.0 - beta2)
    # Two factors of size (rows) and (columns): the full matrix is formed only by the product.
    row_share = rows / rows.mean(dim=-2, keepdim=True).clamp(min=TINY)
    return row_share.clamp(min=TINY).rsqrt() * columns.clamp(min=TINY).rsqrt()
