"""Memory of one forward and backward pass, found by running the real network on tensors without content.

Every storage that a pass makes is counted from its first use to its end, so that the figures follow the code: what
is kept for the backward pass, what is computed again, copies of weights in bfloat16, and what lives for a moment.
The tensors say they are on the CPU, because autograd asks the driver about a GPU's; what mixed precision does
otherwise on a GPU is done here as well.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling.conditioning import Conditions, MicroConditions, TextFeatures
from modeling.config import STIVConfig
from modeling.flops import ClipShape, TokenGrid, token_grid
from modeling.masking import KeptPositions
from modeling.settings import RecomputePolicy
from modeling.stiv import STIV
from training.config import StageConfig
from training.step import StepDraws, TrainBatch, stage_loss

_DEPTHS = (2, 3)
"""Main blocks of the networks that are run; all further blocks take what the third one does."""


@dataclass(frozen=True, slots=True)
class PassBytes:
    """The most that is alive at once in a forward and backward pass, weights and what is there before it apart.

    Gradients are among it where they stay. In three parts, each of which grows by the same amount with every block
    and nearly so with every sample, which their maximum does not.
    """

    before: int
    """Until the gradient has come back to the last main block."""
    last_block: int
    """While it passes through that block: nearly all activations and few gradients."""
    rest: int
    """Up to the end of the backward pass: few activations and all gradients."""

    @property
    def peak(self) -> int:
        return max(self.before, self.last_block, self.rest)


@dataclass(frozen=True, slots=True)
class PassCase:
    """A pass over one micro-batch of a stage."""

    model: STIVConfig
    stage: StageConfig
    clip: ClipShape
    micro_batch: int
    recompute: RecomputePolicy
    device: Literal["cpu", "cuda"]
    half: bool
    """Mixed precision: activations in bfloat16."""
    half_weights: bool
    """The weights come in bfloat16, as FSDP2 gathers them; else mixed precision makes copies of them."""
    keeps_gradients: bool
    """Gradients stay. Not where there is a place for them already, or where they are sent away."""

    @property
    def grid(self) -> TokenGrid:
        stage = self.stage
        return token_grid(self.model, self.clip, stage.mask_ratio, stage.temporal_mask_ratio)


class LiveBytes(TorchDispatchMode):
    """While it is active, counts the storages that operations return, each once and for as long as it lives."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """The storages of `known` are not counted: weights and inputs."""
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]
        self._sizes: dict[int, int] = {_key(storage): 0 for storage in self._known}

    def restart_peak(self) -> int:
        """The peak so far; from now on a new one is kept."""
        peak, self.peak = self.peak, self.live
        return peak

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._take_in(leaf.untyped_storage())
        return result

    def _take_in(self, storage: torch.UntypedStorage) -> None:
        key, size = _key(storage), storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _key(storage: torch.UntypedStorage) -> int:
    """Its address: what it points to has none here."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]  # torch tells storages apart by it


class AsOnGpu(TorchFunctionMode):
    """What CUDA does otherwise than the CPU: a fused RMS norm, and norms in float32 under mixed precision."""

    def __init__(self, *, half: bool) -> None:
        super().__init__()
        self._half = half

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in (F.layer_norm, F.rms_norm, F.group_norm) and self._half:
            args = tuple(_to_float32(value) for value in args)
            named = {name: _to_float32(value) for name, value in named.items()}
        if func is F.rms_norm:
            return _FusedRMSNorm.apply(args[0], named["weight"])
        return func(*args, **named)


class _FusedRMSNorm(torch.autograd.Function):
    """The shapes of a fused RMS norm with a weight: it keeps its input and a number for each row."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1)))
        return torch.empty_like(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # one output
        x, weight, _ = context.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _to_float32(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if is_half else value


def pass_bytes(case: PassCase) -> PassBytes:
    """What a pass over a micro-batch of this size needs."""
    depth = case.model.depth
    if depth <= _DEPTHS[-1]:
        return run_without_content(case, depth)
    return _line(_DEPTHS, [run_without_content(case, few) for few in _DEPTHS], depth)


def estimated_pass_bytes(case: PassCase) -> PassBytes:
    """The same, from passes over one and two clips: nearly as exact, and these are run once for all sizes."""
    few = [pass_bytes(replace(case, micro_batch=number)) for number in (1, 2)]
    return _line((1, 2), few, case.micro_batch)


@cache
def run_without_content(case: PassCase, depth: int) -> PassBytes:
    """Forward and backward of the network with `depth` main blocks."""
    config = case.model.model_copy(update={"depth": depth})
    with torch.device("meta"):
        network = STIV(config, recompute=case.recompute)
    parts: list[int] = []
    with FakeTensorMode():
        fill(network, case)
        step = step_inputs(case)
        meter = LiveBytes([*network.parameters(), *tensors_of(step)])
        for block in network.blocks[-2:]:
            _when_gradient_arrives(block, lambda: parts.append(meter.restart_peak()))
        as_there = AsOnGpu(half=case.half) if case.device == "cuda" else nullcontext()
        for block in [*network.blocks, *network.unmasked_blocks]:
            # By itself too: a mode is off in the backward pass, where blocks are computed again.
            block.forward = partial(_within, as_there, block.forward)
        with meter:
            with as_there, torch.autocast("cpu", torch.bfloat16, enabled=case.half):
                loss = stage_loss(network, (config, case.stage), *step)
            loss.loss.backward()
        parts.append(meter.restart_peak())
    return PassBytes(parts[0], parts[1], parts[-1])


def _within(
    context: AbstractContextManager[Any], forward: Callable[..., Tensor], *inputs: Any
) -> Tensor:
    with context:
        return forward(*inputs)


def _line(places: Sequence[int], values: Sequence[PassBytes], place: int) -> PassBytes:
    """The value at a place on the line through two others."""
    (first, second), steps = values, (place - places[0]) / (places[1] - places[0])
    return PassBytes(
        *(
            round(one + steps * (other - one))
            for one, other in zip(astuple(first), astuple(second), strict=True)
        )
    )


def fill(network: nn.Module, case: PassCase) -> None:
    """Put tensors without content in the place of the parameters on the meta device."""
    dtype = torch.bfloat16 if case.half_weights else torch.float32
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = nn.Parameter(torch.empty(parameter.shape, dtype=dtype))
            if not case.keeps_gradients:
                empty.register_post_accumulate_grad_hook(_let_go_of_gradient)
            setattr(module, name, empty)


def _let_go_of_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _when_gradient_arrives(block: nn.Module, then: Callable[[], None]) -> None:
    """Call `then` when the gradient of the block's output is there."""

    def listen(_block: nn.Module, _inputs: Any, output: Tensor) -> None:
        def tell(_gradient: Tensor) -> None:
            then()

        output.register_hook(tell)

    block.register_forward_hook(listen)


def step_inputs(case: PassCase) -> tuple[TrainBatch, StepDraws, TextFeatures]:
    """A micro-batch of the stage, its draws, and the null text: shapes only."""
    batch, clip, model = case.micro_batch, case.clip, case.model
    size = (batch, model.latent_channels, clip.num_latent_frames, clip.height, clip.width)
    no_or_yes_B = torch.empty(batch, dtype=torch.bool)
    conditions = Conditions(
        text=_text(batch, case),
        micro=MicroConditions(
            torch.empty(batch, 2), torch.empty(batch, 2), torch.empty(batch), torch.empty(batch)
        ),
        given_BF=torch.empty(batch, clip.num_latent_frames, dtype=torch.bool),
        given_latents_BCFHW=torch.empty(size),
    )
    kept, grid, stage = None, case.grid, case.stage
    if stage.mask_ratio > 0 or stage.temporal_mask_ratio > 0:
        kept = KeptPositions(torch.empty(grid.num_spatial_kept, dtype=torch.long))
        if stage.temporal_mask_ratio > 0:
            kept = replace(kept, temporal_T=torch.empty(grid.num_temporal_kept, dtype=torch.long))
    draws = StepDraws(torch.empty(batch), torch.empty(size), no_or_yes_B, no_or_yes_B, kept)
    return TrainBatch(torch.empty(size), conditions), draws, _text(1, case)


def _text(batch: int, case: PassCase) -> TextFeatures:
    length, model = case.clip.num_text_tokens, case.model
    return TextFeatures(
        torch.empty(batch, length, model.text_width),
        torch.empty(batch, length, dtype=torch.bool),
        torch.empty(batch, model.pooled_text_width),
    )


def tensors_of(value: Any) -> list[Tensor]:
    """Those of nested dataclasses and tuples."""
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else ()
    if is_dataclass(value):
        parts = tuple(getattr(value, field.name) for field in fields(value))
    return [tensor for part in parts for tensor in tensors_of(part)]
