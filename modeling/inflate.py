"""Weight flow from one training stage to the next (STIV section 2.4 and appendix B)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeling.config import STIVConfig
from modeling.errors import WeightFlowError
from modeling.stiv import STIV

TEMPORAL_PART = ".temporal_attention"
IMAGE_PARTS = (".image_attention.", "image_projector.")
PATCH_INPUT = "patch_embedding.weight"
PATCH_OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")

StageKind = Literal["t2i_to_t2v", "same"]


@dataclass(frozen=True, slots=True)
class WeightFlowReport:
    """Where each tensor of the network came from, by name."""

    loaded: tuple[str, ...]
    inflated: tuple[str, ...]
    """Patch input and output, spread over the frames of a token."""
    temporal: tuple[str, ...]
    """Temporal attention, from the second state dict."""
    fresh: tuple[str, ...]
    """Left as the network had them: temporal attention of a video model that starts from images, image attention
    of a model that starts from one without."""
    ignored: tuple[str, ...]
    """In the state dict and not wanted: temporal attention that a stage on images never trained."""

    def summary(self) -> str:
        parts = {
            "loaded": self.loaded,
            "inflated": self.inflated,
            "temporal attention from the second stage": self.temporal,
            "fresh": self.fresh,
            "ignored": self.ignored,
        }
        return ", ".join(f"{len(names)} tensors {part}" for part, names in parts.items() if names)


def _copy(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def load_stage(
    model: STIV,
    state_dict: Mapping[str, Tensor],
    *,
    kind: StageKind,
    temporal_from: Mapping[str, Tensor] | None = None,
    fill: Callable[[Tensor, Tensor], object] = _copy,
) -> WeightFlowReport:
    """Fill `model` with the (EMA) weights of an earlier stage.

    `same` wants every tensor: from low to high resolution, from fewer to more frames, from T2V to STIV.
    `t2i_to_t2v` makes a video model that gives every frame of a static clip the output of the image model:
    temporal attention stays as it is, fresh and starting as the identity, and the patch layers are inflated. The
    input layer gets the weights of a frame divided by the patch length, the output layer those of the first
    frame, repeated over time. An image model with a longer patch than 1 saw copies of one frame, so the weights
    of its frames add up at the input, and only the first frame was trained at the output. The paper does not
    give its rule.

    With `temporal_from`, the weights of a video model of low resolution, temporal attention comes from there and
    all else from `state_dict`: initialisation from "both" (section 2.4, table 6b). Image attention that
    no stage before had stays fresh.

    The mappings are asked for one tensor at a time, and `fill(parameter, value)` takes it over: all of it, or the part
    that a worker has.

    Raises:
        WeightFlowError: a tensor is missing, unknown or of another shape. The model is unchanged then.
    """
    wanted = model.state_dict()
    skips_time = kind == "t2i_to_t2v" or temporal_from is not None
    ignored = [name for name in state_dict if skips_time and TEMPORAL_PART in name]
    inflated = _inflate(state_dict, wanted, model.config) if kind == "t2i_to_t2v" else {}
    temporal = [name for name in temporal_from or {} if TEMPORAL_PART in name]
    offered = [name for name in state_dict if name not in ignored]
    # Names first and tensors one at a time: they may be read from disk.
    sources = dict.fromkeys(offered, state_dict) | dict.fromkeys(inflated, inflated)
    if temporal_from is not None:
        sources |= dict.fromkeys(temporal, temporal_from)
    fresh = [name for name in wanted if name not in sources and _may_be_fresh(name, kind)]
    if temporal_from is not None:
        fresh = [name for name in fresh if TEMPORAL_PART not in name]

    _check({name: wanted[name] for name in wanted if name not in fresh}, sources)
    for name, source in sources.items():
        fill(wanted[name], source[name])
    return WeightFlowReport(
        loaded=tuple(n for n in wanted if n in offered and n not in inflated),
        inflated=tuple(inflated),
        temporal=tuple(temporal),
        fresh=tuple(fresh),
        ignored=tuple(ignored),
    )


def _may_be_fresh(name: str, kind: StageKind) -> bool:
    is_of_time = kind == "t2i_to_t2v" and TEMPORAL_PART in name
    return is_of_time or any(part in name for part in IMAGE_PARTS)


def _inflate(
    offered: Mapping[str, Tensor], wanted: Mapping[str, Tensor], config: STIVConfig
) -> dict[str, Tensor]:
    """The patch tensors of an image model, spread over the frames of a token.

    Tensors of an unexpected size are left out, for the check of shapes to report.
    """
    length = config.temporal_patch
    frame_size = config.latent_channels * config.spatial_patch**2
    accepted = (frame_size, frame_size * length)
    inflated: dict[str, Tensor] = {}
    source = offered.get(PATCH_INPUT)
    if source is not None and source.shape[1] in accepted:
        of_frame = source.unflatten(1, (-1, frame_size)).sum(1)
        inflated[PATCH_INPUT] = of_frame.repeat(1, length) / length
    for name in PATCH_OUTPUT:
        source = offered.get(name)
        if source is not None and source.shape[0] in accepted:
            inflated[name] = torch.cat([source[:frame_size]] * length)
    return inflated


def _check(wanted: Mapping[str, Tensor], sources: Mapping[str, Mapping[str, Tensor]]) -> None:
    problems = [f"{name}: missing" for name in wanted if name not in sources]
    problems += [f"{name}: unknown" for name in sources if name not in wanted]
    for name, tensor in wanted.items():
        if name in sources and (found := sources[name][name].shape) != tensor.shape:
            problems.append(f"{name}: shape {tuple(found)}, expected {tuple(tensor.shape)}")
    if problems:
        raise WeightFlowError(
            f"the weights do not fit the network in {len(problems)} tensors; build both stages from one "
            "preset and the same encoders:\n  " + "\n  ".join(problems)
        )
