import pytest
import torch
from torch import Tensor

from modeling.conditioning import Conditions
from modeling.config import GuidanceConfig, SamplerConfig
from modeling.flow import interpolate, velocity
from modeling.sampler import SamplingTask, sample
from modeling.stiv import STIV
from tests.modeling.builders import conditions, latents, randomize, small_model, text_features

DATA, NOISE = latents(seed=1), latents(seed=2)
NULL_TEXT = text_features(1, num_tokens=2, seed=9)
PLAIN = GuidanceConfig(scheme="none")
THREE_STEPS = SamplerConfig(num_sampling_steps=3)


class Recorder:
    """A network that also keeps what it was given."""

    def __init__(self, model: STIV) -> None:
        self.model = model
        self.calls: list[tuple[Tensor, Tensor, Conditions]] = []

    def __call__(self, x_t: Tensor, t_B: Tensor, known: Conditions) -> Tensor:
        self.calls.append((x_t, t_B, known))
        return self.model(x_t, t_B, known)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_true_velocity_leads_to_the_data(solver: str) -> None:
    def oracle(x_t: Tensor, t_B: Tensor, known: Conditions) -> Tensor:
        return velocity(DATA, NOISE)

    settings = SamplerConfig.model_validate({"solver": solver, "num_sampling_steps": 7})
    result = sample(SamplingTask(oracle, conditions(NOISE), NULL_TEXT, NOISE, settings, PLAIN))
    torch.testing.assert_close(result, DATA, rtol=1e-5, atol=1e-5)


def test_heun_is_closer_than_euler_where_the_velocity_bends() -> None:
    def growth(x_t: Tensor, t_B: Tensor, known: Conditions) -> Tensor:
        return x_t

    def error(solver: str) -> float:
        settings = SamplerConfig.model_validate({"solver": solver, "num_sampling_steps": 10})
        result = sample(SamplingTask(growth, conditions(NOISE), NULL_TEXT, NOISE, settings, PLAIN))
        return (result - torch.e * NOISE).abs().max().item()

    assert error("heun") < 0.1 * error("euler")


@pytest.mark.parametrize("scheme", ["joint", "text", "separate", "none"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_network_sees_and_returns_the_given_frames_bit_for_bit(
    scheme: str, solver: str
) -> None:
    model = Recorder(randomize(small_model()))
    known = conditions(NOISE, given=(0, 3), given_latents=DATA)
    settings = SamplerConfig.model_validate({"solver": solver, "num_sampling_steps": 3})
    guidance = GuidanceConfig.model_validate({"scheme": scheme})
    result = sample(SamplingTask(model, known, NULL_TEXT, NOISE, settings, guidance))
    assert len(model.calls) == (3 if solver == "euler" else 6)
    for x_t, _, _ in model.calls:
        assert torch.equal(x_t[-2:, :, [0, 3]], DATA[:, :, [0, 3]])
    assert torch.equal(result[:, :, [0, 3]], DATA[:, :, [0, 3]])
    assert result.isfinite().all()


def test_the_null_pass_sees_given_frames_noised_to_its_time() -> None:
    model = Recorder(randomize(small_model()))
    known = conditions(NOISE, given=(0,), given_latents=DATA)
    sample(SamplingTask(model, known, NULL_TEXT, NOISE, THREE_STEPS, GuidanceConfig()))
    for step, (x_t, t_B, batched) in enumerate(model.calls):
        torch.testing.assert_close(t_B, torch.full((4,), step / 3))
        expected = interpolate(DATA, NOISE, t_B[:2])[:, :, 0]
        torch.testing.assert_close(x_t[:2, :, 0], expected)
        assert torch.equal(x_t[:2, :, 1:], x_t[2:, :, 1:])
        assert not batched.given_BF[:2].any()
        assert batched.given_BF[2:, 0].all()


@pytest.mark.parametrize(
    ("scheme", "passes"), [("none", 1), ("text", 2), ("joint", 2), ("separate", 3)]
)
def test_a_step_is_one_forward_pass_of_the_whole_scheme(scheme: str, passes: int) -> None:
    model = Recorder(randomize(small_model()))
    guidance = GuidanceConfig.model_validate({"scheme": scheme})
    sample(SamplingTask(model, conditions(NOISE), NULL_TEXT, NOISE, THREE_STEPS, guidance))
    assert [len(x_t) for x_t, _, _ in model.calls] == [2 * passes] * 3


def test_scale_one_equals_no_guidance() -> None:
    model, known = randomize(small_model()), conditions(NOISE, given=(0,), given_latents=DATA)
    guidance = GuidanceConfig(text_scale=1.0)
    guided = sample(SamplingTask(model, known, NULL_TEXT, NOISE, THREE_STEPS, guidance))
    plain = sample(SamplingTask(model, known, NULL_TEXT, NOISE, THREE_STEPS, PLAIN))
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


def test_without_an_image_joint_and_text_guidance_agree() -> None:
    model, known = randomize(small_model()), conditions(NOISE)
    joint, text = (
        sample(
            SamplingTask(
                model,
                known,
                NULL_TEXT,
                NOISE,
                THREE_STEPS,
                GuidanceConfig.model_validate({"scheme": scheme}),
            )
        )
        for scheme in ("joint", "text")
    )
    assert torch.equal(joint, text)


def test_renormalization_and_scale_change_the_result() -> None:
    model, known = randomize(small_model()), conditions(NOISE)
    results = [
        sample(SamplingTask(model, known, NULL_TEXT, NOISE, THREE_STEPS, guidance))
        for guidance in (
            GuidanceConfig(),
            GuidanceConfig(renormalize=False),
            GuidanceConfig(text_scale=2.0),
        )
    ]
    assert not torch.allclose(results[0], results[1], atol=1e-2)
    assert not torch.allclose(results[0], results[2], atol=1e-2)


def test_the_noise_alone_decides_the_result() -> None:
    model, known = randomize(small_model()), conditions(NOISE)

    def run(noise: Tensor) -> Tensor:
        return sample(SamplingTask(model, known, NULL_TEXT, noise, THREE_STEPS, GuidanceConfig()))

    torch.manual_seed(1)
    first = run(latents(seed=7))
    torch.manual_seed(2)
    assert torch.equal(first, run(latents(seed=7)))
    assert not torch.allclose(first, run(latents(seed=8)), atol=1e-2)


def test_every_step_is_reported() -> None:
    steps: list[tuple[int, int]] = []
    sample(
        SamplingTask(small_model(), conditions(NOISE), NULL_TEXT, NOISE, THREE_STEPS, PLAIN),
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
