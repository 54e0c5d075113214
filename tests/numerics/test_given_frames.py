"""Frame replacement in every mode: what is given comes out bit for bit, teaches nothing, and is never noised."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from modeling.conditioning import (
    Conditions,
    GivenFrames,
    drop_image,
    given_frames,
    loss_mask,
    null_conditions,
)
from modeling.config import Contract, GuidanceConfig, SamplerConfig
from modeling.flow import interpolate, prediction_loss, velocity
from modeling.sampler import SamplingTask, sampling_states
from tests.modeling.builders import (
    conditions,
    latents,
    randomize,
    seeded,
    small_model,
    text_features,
    times,
)

MODES = [mode for mode in get_args(GivenFrames) if mode != "none"]
FRAMES = 6
DATA, NOISE = latents(num_frames=FRAMES, seed=1), latents(num_frames=FRAMES, seed=2)
NULL_TEXT = text_features(1, num_tokens=2, seed=9)


def known(mode: GivenFrames) -> Conditions:
    given = tuple(given_frames(mode, FRAMES).nonzero().flatten().tolist())
    return conditions(NOISE, given=given, given_latents=DATA)


def test_the_modes_give_the_frames_they_name() -> None:
    found = {mode: given_frames(mode, FRAMES).int().tolist() for mode in get_args(GivenFrames)}
    assert found == {
        "none": [0, 0, 0, 0, 0, 0],
        "first": [1, 0, 0, 0, 0, 0],
        "first_four": [1, 1, 1, 1, 0, 0],
        "every_second": [1, 0, 1, 0, 1, 0],
        "first_and_last": [1, 0, 0, 0, 0, 1],
    }


@pytest.mark.parametrize(
    ("mode", "frames"), [("first", 1), ("first_four", 4), ("first_and_last", 2)]
)
def test_a_mode_that_leaves_nothing_to_predict_is_refused(mode: GivenFrames, frames: int) -> None:
    with pytest.raises(ValueError, match="leaves none to predict"):
        given_frames(mode, frames)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scheme", ["joint", "separate"])
@pytest.mark.parametrize(("solver", "process"), [("euler", "ode"), ("heun", "sde")])
def test_given_frames_are_clean_after_every_step(
    mode: GivenFrames, scheme: str, solver: str, process: str
) -> None:
    given = given_frames(mode, FRAMES)
    task = SamplingTask(
        randomize(small_model()),
        known(mode),
        NULL_TEXT,
        NOISE,
        SamplerConfig.model_validate(
            {"solver": solver, "process": process, "num_sampling_steps": 3}
        ),
        GuidanceConfig.model_validate({"scheme": scheme}),
    )
    states = list(sampling_states(task, seeded()))
    assert len(states) == 3
    for state in states:
        assert torch.equal(state.x_t_BCFHW[:, :, given], DATA[:, :, given])
        assert state.x_t_BCFHW.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_given_frames_give_no_gradient_and_the_others_do(mode: GivenFrames) -> None:
    given = given_frames(mode, FRAMES)
    predicted = randomize(small_model())(NOISE, times(), known(mode))
    predicted.retain_grad()
    loss, _ = prediction_loss(predicted, velocity(DATA, NOISE), loss_mask(known(mode).given_BF))
    loss.backward()
    assert predicted.grad is not None
    assert not predicted.grad[:, :, given].any()
    assert (predicted.grad[:, :, ~given] != 0).all()


def test_without_frame_replacement_the_network_sees_given_frames_on_their_path() -> None:
    """And the result holds them all the same: they are put back after the last step."""
    seen: list[tuple[Tensor, Tensor]] = []
    model = randomize(
        small_model(image_attention="linear", contract=Contract(frame_replacement=False))
    )

    def watched(x_t: Tensor, t_B: Tensor, given: Conditions) -> Tensor:
        seen.append((x_t, t_B))
        return model(x_t, t_B, given)

    task = SamplingTask(
        watched,
        known("first"),
        NULL_TEXT,
        NOISE,
        SamplerConfig(num_sampling_steps=4),
        GuidanceConfig(),
        model.config.contract,
    )
    states = list(sampling_states(task))
    for x_t, t_B in seen:
        expected = interpolate(DATA.repeat(2, 1, 1, 1, 1), NOISE.repeat(2, 1, 1, 1, 1), t_B)
        torch.testing.assert_close(x_t[:, :, 0], expected[:, :, 0])
    assert torch.equal(states[-1].x_t_BCFHW[:, :, 0], DATA[:, :, 0])


def test_image_attention_alone_carries_the_image() -> None:
    model = randomize(
        small_model(image_attention="linear", contract=Contract(frame_replacement=False))
    )
    first = model(NOISE, times(), known("first"))
    other = conditions(NOISE, given=(0,), given_latents=latents(num_frames=FRAMES, seed=7))
    assert (first - model(NOISE, times(), other)).abs().max() > 1e-3
    # What lies in frames that are not given is never looked at.
    hidden = DATA.clone()
    hidden[:, :, 1:] = torch.nan
    same = model(NOISE, times(), conditions(NOISE, given=(0,), given_latents=hidden))
    assert torch.equal(first, same)


@pytest.mark.parametrize("projector", ["linear", "resnet"])
def test_image_attention_starts_without_effect(projector: str) -> None:
    """So a T2V model keeps its output when a stage with image attention starts from it."""
    model = randomize(small_model(image_attention=projector))
    with torch.no_grad():
        for block in [*model.blocks, *model.unmasked_blocks]:
            attention = block.image_attention
            assert isinstance(attention, torch.nn.Module)
            for parameter in attention.get_submodule("output").parameters():
                parameter.zero_()
    plain = small_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs = (NOISE, times(), known("first"))
    torch.testing.assert_close(model(*inputs), plain(*inputs))


def test_a_null_image_of_zeros_stays_given_as_zeros() -> None:
    """STIV appendix J.3."""
    dropped = drop_image(known("first"), torch.tensor([True, False]), "zeros")
    assert dropped.given_BF[:, 0].all()
    assert not dropped.given_latents_BCFHW[0].any()
    assert torch.equal(dropped.given_latents_BCFHW[1], DATA[1])
    null = null_conditions(known("first"), NULL_TEXT, "zeros")
    assert torch.equal(null.given_BF, known("first").given_BF)
    assert not null.given_latents_BCFHW.any()


def test_the_null_pass_of_a_model_with_zero_images_sees_zeros() -> None:
    model = randomize(small_model(contract=Contract(null_image="zeros")))
    inputs: list[Conditions] = []

    def watched(x_t: Tensor, t_B: Tensor, given: Conditions) -> Tensor:
        inputs.append(given)
        return model(x_t, t_B, given)

    task = SamplingTask(
        watched,
        known("first"),
        NULL_TEXT,
        NOISE,
        SamplerConfig(num_sampling_steps=2),
        GuidanceConfig(),
        model.config.contract,
    )
    list(sampling_states(task))
    for given in inputs:
        assert given.given_BF[:, 0].all()
        assert not given.given_latents_BCFHW[:2].any()
        assert torch.equal(given.given_latents_BCFHW[2:], DATA)
