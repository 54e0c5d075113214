"""Activation checkpointing of blocks: what is kept for the backward pass, and what is computed again."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from modeling.settings import RecomputePolicy

_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def run_block(block: nn.Module, x_BTSD: Tensor, inputs: object, policy: RecomputePolicy) -> Tensor:
    """`block(x_BTSD, inputs)`, and the same gradients, at less memory where the policy says so."""
    if policy == "none" or not torch.is_grad_enabled():
        return block(x_BTSD, inputs)
    if policy == "full":
        return checkpoint(block, x_BTSD, inputs, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, _keep_self_attention)
    return checkpoint(block, x_BTSD, inputs, use_reentrant=False, context_fn=contexts)


def _keep_self_attention(
    _context: object, operator: object, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    if operator not in _ATTENTION:
        return CheckpointPolicy.PREFER_RECOMPUTE
    # Attention to text hides padding with a mask; attention to oneself needs none.
    masks = [*args[3:4], kwargs.get("attn_mask"), kwargs.get("attn_bias")]
    is_masked = any(isinstance(mask, Tensor) for mask in masks)
    return CheckpointPolicy.PREFER_RECOMPUTE if is_masked else CheckpointPolicy.MUST_SAVE
