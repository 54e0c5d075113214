import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from modeling.conditioning import Conditions
from modeling.config import GuidanceConfig, SamplerConfig
from modeling.guidance import guide_jointly, guide_separately
from modeling.sampler import SamplingTask, sample
from tests.modeling.builders import (
    conditions,
    latents,
    randomize,
    small_model,
    text_features,
)

NOISE = latents(seed=2)
NULL_TEXT = text_features(1, num_tokens=2, seed=9)


def test_separate_guidance_with_equal_scales_is_joint_guidance() -> None:
    """null + s (image - null) + s (full - image) = null + s (full - null)."""
    null, image_only, full = (latents(seed=seed).double() for seed in (1, 2, 3))
    separate = guide_separately(null, image_only, full, image_scale=4.5, text_scale=4.5)
    torch.testing.assert_close(separate, guide_jointly(null, full, 4.5))


def test_steps_outside_of_the_interval_take_one_pass() -> None:
    model = randomize(small_model())
    sizes: list[int] = []

    def watched(x_t: Tensor, t_B: Tensor, given: Conditions) -> Tensor:
        sizes.append(len(x_t))
        return model(x_t, t_B, given)

    guidance = GuidanceConfig(interval=(0.25, 0.5))
    settings = SamplerConfig(num_sampling_steps=8)
    sample(SamplingTask(watched, conditions(NOISE), NULL_TEXT, NOISE, settings, guidance))
    # Steps begin at 0, 1/8, ... 7/8; the interval holds 2/8, 3/8 and 4/8.
    assert sizes == [2, 2, 4, 4, 4, 2, 2, 2]


def test_an_interval_with_all_of_the_path_changes_nothing() -> None:
    model = randomize(small_model())

    def run(guidance: GuidanceConfig) -> Tensor:
        settings = SamplerConfig(num_sampling_steps=3, solver="heun")
        return sample(SamplingTask(model, conditions(NOISE), NULL_TEXT, NOISE, settings, guidance))

    assert torch.equal(run(GuidanceConfig()), run(GuidanceConfig(interval=(0.0, 1.0))))
    assert not torch.equal(run(GuidanceConfig()), run(GuidanceConfig(interval=(0.5, 0.9))))


@pytest.mark.parametrize("interval", [(0.5, 0.5), (-0.1, 1.0), (0.2, 1.2)])
def test_an_impossible_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="0 <= start < end <= 1"):
        GuidanceConfig(interval=interval)
