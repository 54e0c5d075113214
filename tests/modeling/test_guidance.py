import torch

from modeling.guidance import (
    guide_jointly,
    guide_separately,
    guide_text_only,
    renormalize_guidance,
)
from tests.modeling.builders import latents

NULL, IMAGE_ONLY, FULL = (latents(seed=seed).double() for seed in (1, 2, 3))
ALL_FRAMES = torch.ones(2, 4)


def test_scale_one_is_the_conditional_velocity() -> None:
    torch.testing.assert_close(guide_jointly(NULL, FULL, 1.0), FULL)
    torch.testing.assert_close(guide_text_only(IMAGE_ONLY, FULL, 1.0), FULL)
    separate = guide_separately(NULL, IMAGE_ONLY, FULL, image_scale=1.0, text_scale=1.0)
    torch.testing.assert_close(separate, FULL)


def test_scale_zero_is_the_null_velocity() -> None:
    assert torch.equal(guide_jointly(NULL, FULL, 0.0), NULL)
    separate = guide_separately(NULL, IMAGE_ONLY, FULL, image_scale=1.0, text_scale=0.0)
    torch.testing.assert_close(separate, IMAGE_ONLY)


def test_equal_velocities_are_a_fixed_point_at_any_scale() -> None:
    assert torch.equal(guide_jointly(FULL, FULL, 7.5), FULL)
    assert torch.equal(guide_text_only(FULL, FULL, 7.5), FULL)
    assert torch.equal(guide_separately(FULL, FULL, FULL, image_scale=4.5, text_scale=7.5), FULL)


def test_guidance_extrapolates_beyond_the_condition() -> None:
    guided = guide_jointly(torch.zeros(1), torch.ones(1), 7.5)
    assert guided.item() == 7.5


def test_renormalized_velocity_has_the_conditional_norm_and_the_guided_direction() -> None:
    guided = guide_jointly(NULL, FULL, 7.5)
    renormalized = renormalize_guidance(guided, FULL, ALL_FRAMES)
    torch.testing.assert_close(renormalized.flatten(1).norm(dim=1), FULL.flatten(1).norm(dim=1))
    cosine = torch.cosine_similarity(renormalized.flatten(1), guided.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2, dtype=torch.float64))


def test_renormalization_counts_generated_frames_only() -> None:
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0]] * 2)
    guided = guide_jointly(NULL, FULL, 7.5)
    noisy_given = guided.clone()
    noisy_given[:, :, 0] = 1000.0
    expected = renormalize_guidance(guided, FULL, mask)[:, :, 1:]
    torch.testing.assert_close(renormalize_guidance(noisy_given, FULL, mask)[:, :, 1:], expected)
    torch.testing.assert_close(
        expected.flatten(1).norm(dim=1), FULL[:, :, 1:].flatten(1).norm(dim=1)
    )


def test_renormalization_of_nothing_stays_finite() -> None:
    zeros = torch.zeros_like(FULL)
    assert torch.equal(renormalize_guidance(zeros, zeros, ALL_FRAMES), zeros)
