"""Weight flow from one training stage to the next (STIV section 2.4 and appendix B)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeling.config import STIVConfig
from modeling.stiv import STIV

TEMPORAL_PART = ".temporal_attention."
PATCH_INPUT = "patch_embedding.weight"
PATCH_OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")

StageKind = Literal["t2i_to_t2v", "same"]


class WeightFlowError(ValueError):
    """The weights of a stage do not fit the network; the message lists every mismatch."""


@dataclass(frozen=True, slots=True)
class WeightFlowReport:
    """Where each tensor of the network came from, by name."""

    loaded: tuple[str, ...]
    inflated: tuple[str, ...]
    """Copied along time from an image model with a temporal patch of 1."""
    fresh: tuple[str, ...]
    """Left as the network had them: temporal attention of a video model that starts from images."""
    ignored: tuple[str, ...]
    """In the state dict and not wanted: temporal attention that a stage on images never trained."""


def load_stage(
    model: STIV, state_dict: Mapping[str, Tensor], *, kind: StageKind
) -> WeightFlowReport:
    """Fill `model` with the (EMA) weights of an earlier stage.

    `same` wants every tensor. `t2i_to_t2v` leaves temporal attention as it is, fresh and starting as
    the identity, so that a static clip gets the image model's output. An image model with a temporal
    patch of 1 is inflated: divided by the patch length and repeated over time at the input, repeated
    at the output. The paper does not give its rule; this one keeps the function on static clips.

    Raises:
        WeightFlowError: a tensor is missing, unknown or of another shape. The model is unchanged then.
    """
    wanted = model.state_dict()
    fresh = [name for name in wanted if kind == "t2i_to_t2v" and TEMPORAL_PART in name]
    ignored = [name for name in state_dict if kind == "t2i_to_t2v" and TEMPORAL_PART in name]
    offered = {name: tensor for name, tensor in state_dict.items() if name not in ignored}

    inflated = _inflate(offered, wanted, model.config) if kind == "t2i_to_t2v" else {}
    incoming = {**offered, **inflated}
    _check({name: wanted[name] for name in wanted if name not in fresh}, incoming)
    model.load_state_dict(incoming, strict=False)
    return WeightFlowReport(
        loaded=tuple(name for name in wanted if name in incoming and name not in inflated),
        inflated=tuple(inflated),
        fresh=tuple(fresh),
        ignored=tuple(ignored),
    )


def _inflate(
    offered: Mapping[str, Tensor], wanted: Mapping[str, Tensor], config: STIVConfig
) -> dict[str, Tensor]:
    """The patch tensors that become right by repetition over time; the frame is the slowest patch axis."""
    length = config.temporal_patch
    inflated: dict[str, Tensor] = {}
    source = offered.get(PATCH_INPUT)
    if source is not None and source.shape[1] * length == wanted[PATCH_INPUT].shape[1]:
        inflated[PATCH_INPUT] = source.repeat(1, length) / length
    for name in PATCH_OUTPUT:
        source = offered.get(name)
        if source is not None and source.shape[0] * length == wanted[name].shape[0]:
            inflated[name] = torch.cat([source] * length)
    return {} if length == 1 else inflated


def _check(wanted: Mapping[str, Tensor], incoming: Mapping[str, Tensor]) -> None:
    problems = [f"{name}: missing" for name in wanted if name not in incoming]
    problems += [f"{name}: unknown" for name in incoming if name not in wanted]
    problems += [
        f"{name}: shape {tuple(incoming[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in incoming and incoming[name].shape != tensor.shape
    ]
    if problems:
        raise WeightFlowError(
            f"the weights do not fit the network in {len(problems)} tensors; build both stages from one "
            "preset and the same encoders:\n  " + "\n  ".join(problems)
        )
