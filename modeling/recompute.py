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

_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.linear.default,
}


def run_block(block: nn.Module, x_BTSD: Tensor, inputs: object, policy: RecomputePolicy) -> Tensor:
    """`block(x_BTSD, inputs)`, and the same gradients, at less memory where the policy says so."""
    if policy == "none" or not torch.is_grad_enabled():
        return block(x_BTSD, inputs)
    if policy == "full":
        return checkpoint(block, x_BTSD, inputs, use_reentrant=False)
    keep = _keep_products if policy == "selective" else _keep_self_attention
    contexts = partial(create_selective_checkpoint_contexts, keep)
    return checkpoint(block, x_BTSD, inputs, use_reentrant=False, context_fn=contexts)


def _keep_products(
    _context: object, operator: object, *_args: Any, **_kwargs: Any
) -> CheckpointPolicy:
    is_kept = operator in _PRODUCTS or operator in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def _keep_self_attention(
    _context: object, operator: object, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    if operator not in _ATTENTION:
        return CheckpointPolicy.PREFER_RECOMPUTE
    # Attention to text hides padding with a mask; attention to oneself needs none.
    masks = [*args[3:4], kwargs.get("attn_mask"), kwargs.get("attn_bias")]
    is_masked = any(isinstance(mask, Tensor) for mask in masks)
    return CheckpointPolicy.PREFER_RECOMPUTE if is_masked else CheckpointPolicy.MUST_SAVE
