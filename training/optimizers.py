"""The optimizer that a stage asks for."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.adafactor import AdaFactor
from training.config import OptimizerConfig


def make_optimizer(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
    """AdaFactor or AdamW over all weights, without weight decay (STIV section 3.1)."""
    if settings.name == "adafactor":
        return AdaFactor(
            model.parameters(),
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            beta2_power=settings.beta2_power,
            momentum_dtype=getattr(torch, settings.momentum_dtype),
        )
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=betas, weight_decay=0.0
    )


def empty_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The state of a parameter before its first step, to be filled."""
    if isinstance(optimizer, AdaFactor):
        return optimizer.empty_state(parameter)
    moments = {slot: torch.zeros_like(parameter) for slot in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.zeros(()), **moments}
