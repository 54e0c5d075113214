"""Factorised attention against one dense attention with the matching mask, and positions that interpolate."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modeling.blocks import SelfAttention, TemporalAttention
from modeling.rope import Rotary, rotate, spatial_rotary, temporal_rotary
from tests.modeling.builders import conditions, latents, randn, randomize, small_config, small_model
from tests.modeling.builders import times as times_of

CPU = torch.device("cpu")
T, ROWS, COLUMNS = 3, 2, 4
S = ROWS * COLUMNS


def dense(attention: SelfAttention, x_BLD: Tensor, positions: Rotary, mask_LL: Tensor) -> Tensor:
    """One attention over all T * S tokens, where `mask_LL` says who sees whom."""
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in attention.qkv(x_BLD).chunk(3, dim=-1)
    )
    query = rotate(attention.query_norm(query), positions)
    key = rotate(attention.key_norm(key), positions)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    weights = functional.softmax(scores.masked_fill(~mask_LL, -torch.inf), dim=-1)
    return attention.output((weights @ value).transpose(1, 2).flatten(2))


def frame_of() -> Tensor:
    return torch.arange(T).repeat_interleave(S)


def place_of() -> Tensor:
    return torch.arange(S).repeat(T)


def test_spatial_attention_is_dense_attention_within_frames() -> None:
    torch.manual_seed(0)
    attention, x_BTSD = SelfAttention(small_config()), randn(2, T, S, 32)
    positions = spatial_rotary(ROWS, COLUMNS, 16, CPU)
    factorised = attention(x_BTSD.flatten(0, 1), positions).view_as(x_BTSD)
    everywhere = positions.at(place_of())
    same_frame = frame_of()[:, None] == frame_of()
    expected = dense(attention, x_BTSD.flatten(1, 2), everywhere, same_frame).view_as(x_BTSD)
    torch.testing.assert_close(factorised, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_temporal_attention_is_dense_attention_within_positions(causal: bool) -> None:
    torch.manual_seed(0)
    config = small_config(causal_temporal=causal, sandwich_norm=False)
    temporal, x_BTSD = TemporalAttention(config), randn(2, T, S, 32)
    assert temporal.gate_D is not None
    torch.nn.init.ones_(temporal.gate_D)
    positions = temporal_rotary(T, 16, CPU)
    factorised = temporal(x_BTSD, positions, None)
    mask = place_of()[:, None] == place_of()
    if causal:
        mask &= frame_of()[:, None] >= frame_of()
    normed = functional.layer_norm(x_BTSD, (32,), eps=1e-6).flatten(1, 2)
    expected = dense(temporal.attention, normed, positions.at(frame_of()), mask).view_as(x_BTSD)
    torch.testing.assert_close(factorised, expected, rtol=1e-4, atol=1e-5)


def test_interpolated_positions_are_the_plain_ones_at_equal_length() -> None:
    for count in (1, 5, 10):
        plain, same = temporal_rotary(count, 16, CPU), temporal_rotary(count, 16, CPU, 10)
        assert torch.equal(plain.cos_LK, same.cos_LK)
    plain, same = spatial_rotary(3, 4, 16, CPU), spatial_rotary(3, 4, 16, CPU, (3, 4))
    assert torch.equal(plain.sin_LK, same.sin_LK)


def test_interpolation_puts_twice_the_frames_into_the_trained_range() -> None:
    trained = temporal_rotary(10, 16, CPU)
    longer = temporal_rotary(20, 16, CPU, 10)
    torch.testing.assert_close(longer.cos_LK[::2], trained.cos_LK)
    assert not torch.allclose(temporal_rotary(20, 16, CPU).cos_LK[::2], trained.cos_LK, atol=0.1)


def test_a_network_with_a_trained_grid_changes_on_longer_clips_alone() -> None:
    plain = randomize(small_model())
    interpolating = randomize(small_model(rotary_grid=(2, 2, 3)))
    short, long = latents(num_frames=4), latents(num_frames=8)
    times = times_of()
    assert torch.equal(
        plain(short, times, conditions(short)), interpolating(short, times, conditions(short))
    )
    difference = plain(long, times, conditions(long)) - interpolating(long, times, conditions(long))
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(4, 6), (6, 4), (8, 2), (10, 10)])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 20])
def test_any_length_and_aspect_ratio_goes_through_one_network(
    height: int, width: int, num_frames: int
) -> None:
    x = randn(1, 4, num_frames, height, width)
    output = randomize(small_model())(x, times_of(1), conditions(x))
    assert output.shape == x.shape
    assert output.isfinite().all()
