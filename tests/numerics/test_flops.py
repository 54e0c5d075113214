from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling.conditioning import Conditions, MicroConditions, TextFeatures
from modeling.config import STIVConfig, preset
from modeling.flops import ClipShape, forward_flops, token_grid
from modeling.masking import KeptPositions
from modeling.stiv import STIV

TEXT_WIDTH = POOLED_WIDTH = 1280
XL_CLIP = ClipShape(num_latent_frames=20, height=32, width=32, num_text_tokens=77)


def _config(name: str = "tiny", **changes: Any) -> STIVConfig:
    return preset(
        name,
        latent_channels=8,
        text_width=TEXT_WIDTH,
        pooled_text_width=POOLED_WIDTH,
        **changes,
    )


def _counted(config: STIVConfig, shape: ClipShape, mask_ratio: float, time_ratio: float) -> int:
    """By torch, from the operations of a real pass over tensors without data."""
    grid = token_grid(config, shape, mask_ratio, time_ratio)
    with torch.device("meta"):
        model = STIV(config)
        size = (1, config.latent_channels, shape.num_latent_frames, shape.height, shape.width)
        x = torch.empty(size)
        text = TextFeatures(
            torch.empty(1, shape.num_text_tokens, TEXT_WIDTH),
            torch.empty(1, shape.num_text_tokens, dtype=torch.bool),
            torch.empty(1, POOLED_WIDTH),
        )
        micro = MicroConditions(
            torch.empty(1, 2), torch.empty(1, 2), torch.empty(1), torch.empty(1)
        )
        given = torch.empty(1, shape.num_latent_frames, dtype=torch.bool)
        t_B = torch.empty(1)
        kept = KeptPositions(torch.empty(grid.num_spatial_kept, dtype=torch.long))
        if time_ratio:
            kept = KeptPositions(
                kept.spatial_S, torch.empty(grid.num_temporal_kept, dtype=torch.long)
            )
    with FlopCounterMode(display=False) as counter:
        is_masked = mask_ratio > 0 or time_ratio > 0
        model(x, t_B, Conditions(text, micro, given, x), kept=kept if is_masked else None)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["XL", "XXL", "M"])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.5])
def test_the_published_sizes_cost_what_torch_counts(name: str, mask_ratio: float) -> None:
    config = _config(name)
    grid = token_grid(config, XL_CLIP, mask_ratio)
    expected = _counted(config, XL_CLIP, mask_ratio, 0.0)
    assert abs(forward_flops(config, XL_CLIP, grid).total / expected - 1) < 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"temporal_attention": False},
        {"temporal_patch": 1},
        {"temporal_patch": 4},
        {"modulation": "per_block"},
        {"temporal_modulation": True},
        {"temporal_modulation": True, "modulation": "per_block"},
        {"micro_conditions": False},
        {"num_unmasked_blocks": 0},
        {"mlp_ratio": 2.0},
    ],
)
@pytest.mark.parametrize("time_ratio", [0.0, 0.5])
def test_every_switch_that_costs_is_counted(changes: dict[str, Any], time_ratio: float) -> None:
    config = _config(**changes)
    shape = ClipShape(num_latent_frames=7, height=12, width=8, num_text_tokens=9)
    grid = token_grid(config, shape, 0.25, time_ratio)
    expected = _counted(config, shape, 0.25, time_ratio)
    assert forward_flops(config, shape, grid).total == expected


def test_an_image_pays_for_no_temporal_attention() -> None:
    config = _config()
    shape = ClipShape(num_latent_frames=1, height=12, width=8, num_text_tokens=9)
    flops = forward_flops(config, shape, token_grid(config, shape)).total
    assert flops == _counted(config, shape, 0.0, 0.0)


@pytest.mark.parametrize("projector", ["linear", "resnet"])
def test_image_attention_is_counted(projector: str) -> None:
    """On real tensors, since which frames are given decides the shapes."""
    config = _config(hidden_size=64, num_heads=2, image_attention=projector)
    shape = ClipShape(4, 8, 8, num_text_tokens=5, num_given_frames=1)
    x = torch.zeros(1, 8, 4, 8, 8)
    given = torch.tensor([[True, False, False, False]])
    text = TextFeatures(
        torch.zeros(1, 5, TEXT_WIDTH), torch.ones(1, 5).bool(), torch.zeros(1, POOLED_WIDTH)
    )
    micro = MicroConditions(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    backend = torch.nn.attention.SDPBackend.MATH
    with torch.nn.attention.sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        STIV(config)(x, torch.zeros(1), Conditions(text, micro, given, x))
    expected = counter.get_total_flops()
    assert forward_flops(config, shape, token_grid(config, shape)).total == expected
