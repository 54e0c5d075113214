import pytest
import torch

from modeling.embeddings import (
    SingletonCondition,
    grid_positions,
    pad_frames,
    patchify,
    sinusoidal,
    stateless_norm,
    unpatchify,
)
from tests.modeling.builders import conditions, latents, small_config, small_model, times


@pytest.mark.parametrize(("temporal_patch", "spatial_patch"), [(1, 1), (2, 2), (1, 2), (4, 2)])
def test_unpatchify_undoes_patchify(temporal_patch: int, spatial_patch: int) -> None:
    x = latents()
    tokens = patchify(x, temporal_patch, spatial_patch)
    assert tokens.shape[1:3] == (4 // temporal_patch, 24 // spatial_patch**2)
    assert torch.equal(unpatchify(tokens, 4 // spatial_patch, temporal_patch, spatial_patch), x)


def test_a_token_holds_its_own_patch_frame_by_frame() -> None:
    x = latents()
    token = patchify(x, 2, 2)[1, 0, 4]
    assert torch.equal(token, x[1, :, 0:2, 2:4, 2:4].transpose(0, 1).flatten())


def test_odd_frame_counts_are_filled_with_the_last_frame() -> None:
    x = latents(num_frames=3)
    padded = pad_frames(x, 2)
    assert padded.shape[2] == 4
    assert torch.equal(padded[:, :, :3], x)
    assert torch.equal(padded[:, :, 3], x[:, :, 2])
    assert torch.equal(pad_frames(latents(), 2), latents())


def test_sinusoidal_features_tell_close_timesteps_apart() -> None:
    features = sinusoidal(torch.tensor([500.0, 501.0]), 32)
    assert (features[0] - features[1]).abs().max() > 0.1
    assert features.abs().max() <= 1


def test_grid_positions_are_distinct_and_row_major() -> None:
    grid = grid_positions(3, 4, 16, torch.device("cpu")).view(3, 4, 16)
    assert torch.pdist(grid.flatten(0, 1)).min() > 0.1
    assert torch.equal(grid[:, :, :8], grid[:, :1, :8].expand(3, 4, 8))
    assert torch.equal(grid[:, :, 8:], grid[:1, :, 8:].expand(3, 4, 8))


def test_stateless_norm_centres_and_scales_each_token() -> None:
    x = stateless_norm(5 + 3 * latents())
    torch.testing.assert_close(x.mean(-1), torch.zeros_like(x.mean(-1)), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.var(-1, correction=0), torch.ones_like(x.mean(-1)))


def test_every_part_of_the_singleton_condition_counts_alike() -> None:
    embed = small_model().singleton_condition
    x = latents()
    base = embed(times(), conditions(x))
    with torch.no_grad():
        embed.pooled_text.weight.mul_(1000)
    torch.testing.assert_close(embed(times(), conditions(x)), base, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "field", ["original_size_B2", "crop_top_left_B2", "sampling_stride_B", "num_frames_B"]
)
def test_each_micro_condition_reaches_the_singleton_condition(field: str) -> None:
    embed = SingletonCondition(small_config())
    known = conditions(latents())
    base = embed(times(), known)
    getattr(known.micro, field).add_(5.0)
    assert (embed(times(), known) - base).abs().max() > 1e-2
