"""Flows whose answer is known in closed form: data that is a Gaussian, and an oracle that knows data and noise."""

import pytest
import torch
from torch import Tensor

from modeling.conditioning import Conditions
from modeling.config import Contract, GuidanceConfig, SamplerConfig
from modeling.diffusion import coefficients, diffuse
from modeling.flow import interpolate, score_of
from modeling.sampler import SamplingTask, sample, sampling_states
from tests.modeling.builders import conditions, latents, randn, seeded, text_features

MEAN, DEVIATION = 0.7, 0.4
NOISE = randn(1, 4, 4, 64, 64).double()
NULL_TEXT = text_features(1, num_tokens=2, seed=9)
NO_GUIDANCE = GuidanceConfig(scheme="none")


def gaussian_velocity(x_t: Tensor, t_B: Tensor, _: Conditions) -> Tensor:
    """E[data - noise | x_t] for data of `MEAN` and `DEVIATION`."""
    t = t_B.view(-1, 1, 1, 1, 1)
    variance = t**2 * DEVIATION**2 + (1 - t) ** 2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (x_t - t * MEAN)


def gaussian_task(**settings: object) -> SamplingTask:
    return SamplingTask(
        gaussian_velocity,
        conditions(NOISE),
        NULL_TEXT,
        NOISE,
        SamplerConfig.model_validate(settings),
        NO_GUIDANCE,
    )


@pytest.mark.parametrize(
    ("solver", "steps", "bound"), [("euler", 400, 1e-2), ("heun", 100, 1e-3), ("heun", 200, 3e-4)]
)
def test_the_ode_carries_a_gaussian_to_a_gaussian(solver: str, steps: int, bound: float) -> None:
    """The flow of a Gaussian is affine: each noise ends at mean + deviation * noise."""
    result = sample(gaussian_task(solver=solver, num_sampling_steps=steps))
    assert (result - (MEAN + DEVIATION * NOISE)).abs().max() < bound


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("diffusion_scale", [0.5, 2.0])
def test_the_sde_has_the_distribution_of_the_ode(solver: str, diffusion_scale: float) -> None:
    settings = {"solver": solver, "num_sampling_steps": 400}
    ode = sample(gaussian_task(**settings)).flatten()
    task = gaussian_task(**settings, process="sde", diffusion_scale=diffusion_scale)
    sde = sample(task, seeded(3)).flatten()
    # Of 65,536 draws: four standard errors, and the step size.
    assert abs(sde.mean() - MEAN) < 4 * DEVIATION / 256 + 2e-3
    assert abs(sde.std() - DEVIATION) < 4 * DEVIATION / 256 / 2**0.5 + 4e-3
    # Kolmogorov-Smirnov against the ODE: 1.95 sqrt(2 / n) is the distance of equal ones at 0.1%.
    grid = torch.linspace(-1.5, 3.0, 400, dtype=torch.float64)
    shares = [torch.searchsorted(draws.sort().values, grid) / len(draws) for draws in (ode, sde)]
    assert (shares[0] - shares[1]).abs().max() < 1.95 * (2 / len(ode)) ** 0.5 + 4e-3
    # And it is not the same sample: it forgot most of its first noise.
    correlation = torch.corrcoef(torch.stack([ode, sde]))[0, 1]
    assert correlation < 0.95


def test_a_wrong_correction_would_show() -> None:
    """Noise without its drift widens the distribution: the test above can tell."""
    draws = sample(
        gaussian_task(solver="euler", num_sampling_steps=400, process="sde", diffusion_scale=2.0),
        seeded(3),
    )
    widened = draws + 0.1 * torch.randn(draws.shape, generator=seeded(4), dtype=torch.float64)
    assert abs(widened.std() - DEVIATION) > 8e-3


def test_the_score_of_a_gaussian_follows_from_its_velocity() -> None:
    t = 0.3
    velocity = gaussian_velocity(NOISE, torch.tensor([t]).double(), conditions(NOISE))
    variance = t**2 * DEVIATION**2 + (1 - t) ** 2
    expected = -(NOISE - t * MEAN) / variance
    torch.testing.assert_close(score_of(velocity, NOISE, t), expected)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_an_oracle_lands_on_the_data(solver: str, shift: float) -> None:
    data, noise = latents(seed=1).double(), latents(seed=2).double()

    def oracle(x_t: Tensor, t_B: Tensor, _: Conditions) -> Tensor:
        return data - noise

    settings = SamplerConfig.model_validate(
        {"solver": solver, "num_sampling_steps": 6, "timestep_shift": shift}
    )
    task = SamplingTask(oracle, conditions(noise), NULL_TEXT, noise, settings, NO_GUIDANCE)
    torch.testing.assert_close(sample(task), data)


def test_the_sde_of_an_oracle_lands_on_the_data() -> None:
    """The velocity of a point mass is (data - x) / (1 - t): whatever noise was added is taken out again."""
    data, noise = latents(seed=1).double(), latents(seed=2).double()

    def oracle(x_t: Tensor, t_B: Tensor, _: Conditions) -> Tensor:
        return (data - x_t) / (1 - t_B.view(-1, 1, 1, 1, 1))

    settings = SamplerConfig(process="sde", num_sampling_steps=20)
    task = SamplingTask(oracle, conditions(noise), NULL_TEXT, noise, settings, NO_GUIDANCE)
    torch.testing.assert_close(sample(task, seeded()), data)


def test_the_noise_schedule_is_that_of_stable_diffusion() -> None:
    """Cumulative products of 1 - beta, against the plain product; the published ends are 0.99915 and 0.0047."""
    steps = torch.arange(1000, dtype=torch.float64)
    betas = (0.00085**0.5 + steps / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
    kept = torch.cumprod(1 - betas, 0)
    alpha, sigma = coefficients(1 - (steps + 1) / 1000)
    torch.testing.assert_close(alpha**2, kept)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(kept))
    assert abs(float(kept[0]) - 0.99915) < 1e-9
    assert round(float(kept[-1]), 4) == 0.0047


def test_an_oracle_of_the_noise_lands_on_the_data_by_ddim() -> None:
    data, noise = latents(seed=1).double(), latents(seed=2).double()
    start = diffuse(data, noise, torch.zeros(2, dtype=torch.float64))

    def oracle(x_t: Tensor, t_B: Tensor, _: Conditions) -> Tensor:
        return noise

    task = SamplingTask(
        oracle,
        conditions(noise),
        NULL_TEXT,
        start,
        SamplerConfig(num_sampling_steps=5),
        NO_GUIDANCE,
        Contract(prediction="noise"),
    )
    torch.testing.assert_close(sample(task), data)
    assert torch.equal(diffuse(data, noise, torch.ones(2, dtype=torch.float64)), data)


@pytest.mark.parametrize("process", ["ode", "sde"])
def test_sampling_goes_on_from_any_step_bit_for_bit(process: str) -> None:
    task = gaussian_task(solver="heun", num_sampling_steps=7, process=process)
    whole = list(sampling_states(task, seeded(5)))
    for state in whole[:-1]:
        resumed = sample(task, seeded(99), resume=state)
        assert torch.equal(resumed, whole[-1].x_t_BCFHW)
    assert torch.equal(sample(task, seeded(5)), whole[-1].x_t_BCFHW)


def test_the_sde_without_a_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="SDE draws noise"):
        sample(gaussian_task(process="sde"))


def test_noise_prediction_knows_one_solver() -> None:
    task = gaussian_task(solver="heun")
    wrong = SamplingTask(
        task.model,
        task.conditions,
        NULL_TEXT,
        NOISE,
        task.sampler,
        NO_GUIDANCE,
        Contract(prediction="noise"),
    )
    with pytest.raises(ValueError, match="DDIM"):
        sample(wrong)


def test_the_path_and_its_mix_agree_at_the_ends() -> None:
    data, noise = latents(seed=1), latents(seed=2)
    assert torch.equal(interpolate(data, noise, torch.ones(2)), data)
    assert torch.equal(interpolate(data, noise, torch.zeros(2)), noise)
