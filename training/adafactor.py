"""AdaFactor as STIV trains with it (section 3.1): constant decays, momentum, absolute learning rate.

`torch.optim.Adafactor` has no momentum, always lets the second-moment decay depend on the step, and fails on sharded
parameters; here both decays are constant unless a schedule is asked for, and there is no bias correction. The second
moment of a tensor with two or more dims is kept as its row and column means over the last two.

Parameters may be sharded along their first dim (FSDP2). A step then adds up over the shards twice, for all
parameters at once: the column means of matrices, and the size of each update. The state of a sharded
parameter is sharded like it, but for the column means of a matrix, which every worker has.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from training.shards import local, shard_group, sharded_like

TINY = 1e-30
"""Keeps the inverse square root finite where all gradients are zero."""

MAX_UPDATE_RMS = 1.0
"""Bounds the root mean square of each tensor's update before momentum."""


class AdaFactor(torch.optim.Optimizer):
    """Parameters without a gradient are left alone. State: nothing but tensors, float32 where not said otherwise.

    `momentum`, unless `beta1` is 0; `variance`, or `row_variance` and `column_variance`; `step` of the schedule.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        beta2_power: float | None = None,
        momentum_dtype: torch.dtype = torch.float32,
    ) -> None:
        """With `beta2_power`, the decay of step n, from 1 on, is 1 - n^-power instead of `beta2`."""
        defaults: dict[str, Any] = {
            "lr": learning_rate,
            "beta1": beta1,
            "beta2": beta2,
            "beta2_power": beta2_power,
            "momentum_dtype": momentum_dtype,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch also allows a closure, which no caller here has
        """Apply one update; the learning rate is read from the group. Float32 gradients are overwritten.

        All workers that share parameters call this together, with gradients of the same parameters.
        """
        assert closure is None, "AdaFactor takes no closure"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            # All of them are held at once, in the place of the gradients.
            updates = [local(p.grad).float() for p in parameters]
            states = [self._state_of(p) for p in parameters]
            columns = _column_means(parameters, updates)
            for update, state, column in zip(updates, states, columns, strict=True):
                update.mul_(_inverse_root(state, update, column, _beta2(state, group)))
            for parameter, update, state, rms in zip(
                parameters, updates, states, _root_mean_squares(parameters, updates), strict=True
            ):
                update.div_((rms / MAX_UPDATE_RMS).clamp_(min=1.0))
                moved = _moved(state, update, group["beta1"])
                local(parameter).add_(moved.to(parameter.dtype), alpha=-group["lr"])

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step, divided as the parameter is."""
        shape, mine = tuple(parameter.shape), local(parameter).detach().float()
        state: dict[str, Tensor] = {}
        if self.defaults["beta1"] > 0:
            momentum = torch.zeros_like(mine, dtype=self.defaults["momentum_dtype"])
            state["momentum"] = sharded_like(parameter, momentum, shape)
        if self.defaults["beta2_power"] is not None:
            # On the CPU, where it is read.
            state["step"] = torch.zeros((), device="cpu")
        if parameter.dim() < 2:
            variance = sharded_like(parameter, torch.zeros_like(mine), shape)
            return {**state, "variance": variance}
        rows = mine.new_zeros((*mine.shape[:-1], 1))
        columns = mine.new_zeros((*mine.shape[:-2], 1, mine.shape[-1]))
        return {
            **state,
            "row_variance": sharded_like(parameter, rows, (*shape[:-1], 1)),
            "column_variance": sharded_like(
                parameter, columns, (*shape[:-2], 1, shape[-1]), everywhere=parameter.dim() == 2
            ),
        }

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """This worker's part of the state, made from zeros before the first step."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state.update(self.empty_state(parameter))
        return {name: local(tensor) for name, tensor in state.items()}


def _column_means(parameters: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor | None]:
    """Mean of the squared gradient over the rows of each tensor, None for vectors; one reduction over shards."""
    sums = [None if g.dim() < 2 else g.square().sum(dim=-2, keepdim=True) for g in grads]
    # Further dims come first: there a matrix lies whole on one worker.
    split = [s for s, p in zip(sums, parameters, strict=True) if s is not None and p.dim() == 2]
    _add_up(split, parameters)
    return [None if s is None else s / p.shape[-2] for s, p in zip(sums, parameters, strict=True)]


def _root_mean_squares(parameters: Sequence[Tensor], updates: Sequence[Tensor]) -> list[Tensor]:
    """Of each whole tensor; one reduction over shards."""
    squares = [update.square().sum() for update in updates]
    _add_up(squares, parameters)
    return [(s / p.numel()).sqrt() for s, p in zip(squares, parameters, strict=True)]


def _add_up(parts: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Replace each part by its sum over the workers that share the parameters, all in one message."""
    group = shard_group(parameters)
    if group is None or not parts:
        return
    fused = torch.cat([part.flatten() for part in parts])
    torch.distributed.all_reduce(fused, group=group)
    for part, summed in zip(parts, fused.split([p.numel() for p in parts]), strict=True):
        part.copy_(summed.view_as(part))


def _beta2(state: dict[str, Tensor], group: dict[str, Any]) -> float:
    """Of this step, which a schedule counts."""
    if group["beta2_power"] is None:
        return group["beta2"]
    return 1.0 - float(state["step"].add_(1)) ** -group["beta2_power"]


def _moved(state: dict[str, Tensor], update: Tensor, beta1: float) -> Tensor:
    """Advance the momentum and return it; the update itself where none is kept."""
    momentum = state.get("momentum")
    if momentum is None:
        return update
    if momentum.dtype == update.dtype:
        return momentum.lerp_(update, 1.0 - beta1)
    # Averaged in float32 and then rounded: the step itself is not.
    averaged = momentum.float().lerp_(update, 1.0 - beta1)
    momentum.copy_(averaged)
    return averaged


def _inverse_root(
    state: dict[str, Tensor], grad: Tensor, column_means: Tensor | None, beta2: float
) -> Tensor:
    """Advance the second moment and return 1 / sqrt of it, broadcastable to the gradient."""
    squared = grad.square()
    if column_means is None:
        return state["variance"].lerp_(squared, 1.0 - beta2).clamp(min=TINY).rsqrt()
    rows = state["row_variance"].lerp_(squared.mean(dim=-1, keepdim=True), 1.0 - beta2)
    columns = state["column_variance"].lerp_(column_means, 1.0 - beta2)
    # Two factors of size (rows) and (columns): the full matrix is formed only by the product. The mean of
    # all rows is that of all columns, which needs no word from other shards.
    row_share = rows / columns.mean(dim=-1, keepdim=True).clamp(min=TINY)
    return row_share.clamp(min=TINY).rsqrt() * columns.clamp(min=TINY).rsqrt()
