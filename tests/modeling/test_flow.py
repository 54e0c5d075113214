import torch

from modeling.flow import interpolate, sample_timesteps, velocity, velocity_loss
from tests.modeling.builders import latents, randn, seeded

DATA = latents(seed=1)
NOISE = latents(seed=2)


def test_the_path_runs_from_noise_to_data() -> None:
    assert torch.equal(interpolate(DATA, NOISE, torch.zeros(2)), NOISE)
    assert torch.equal(interpolate(DATA, NOISE, torch.ones(2)), DATA)


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    data, noise = DATA.double(), NOISE.double()
    t, step = torch.tensor([0.3, 0.7], dtype=torch.float64), 1e-4
    slope = (interpolate(data, noise, t + step) - interpolate(data, noise, t - step)) / (2 * step)
    torch.testing.assert_close(velocity(data, noise), slope, rtol=0, atol=1e-10)


def test_a_perfect_prediction_has_no_loss_and_noise_has_some() -> None:
    target = velocity(DATA, NOISE)
    loss, per_sample = velocity_loss(target, target, torch.ones(2, 4))
    assert loss == 0
    assert torch.equal(per_sample, torch.zeros(2))
    assert velocity_loss(NOISE, target, torch.ones(2, 4))[0] > 0.1


def test_the_loss_is_the_mean_over_frames_that_were_not_given() -> None:
    predicted, target = latents(seed=3), velocity(DATA, NOISE)
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    loss, per_sample = velocity_loss(predicted, target, mask)
    expected = [
        (predicted[0, :, 1:] - target[0, :, 1:]).square().mean(),
        (predicted[1, :, 2:] - target[1, :, 2:]).square().mean(),
    ]
    torch.testing.assert_close(per_sample, torch.stack(expected))
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_the_loss_is_limited_to_kept_positions() -> None:
    predicted, target = latents(seed=3), velocity(DATA, NOISE)
    kept = torch.zeros(4, 6, dtype=torch.bool)
    kept[:2, 2:4] = True
    loss, _ = velocity_loss(predicted, target, torch.ones(2, 4), kept)
    expected = (predicted - target)[..., :2, 2:4].square().mean()
    torch.testing.assert_close(loss, expected)


def test_a_clip_with_every_frame_given_has_zero_loss_and_finite_gradient() -> None:
    predicted = randn(1, 4, 2, 4, 6).requires_grad_()
    loss, _ = velocity_loss(predicted, torch.zeros(1, 4, 2, 4, 6), torch.zeros(1, 2))
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_logit_normal_timesteps_crowd_the_middle() -> None:
    crowded = sample_timesteps(10_000, "logit_normal", seeded(), "cpu")
    even = sample_timesteps(10_000, "uniform", seeded(), "cpu")

    def share_in_the_middle(t: torch.Tensor) -> float:
        return ((t > 0.25) & (t < 0.75)).float().mean().item()

    # P(|N(0, 1)| < log 3) = 0.728; the deviation of a share of 10,000 is below 0.005.
    assert abs(share_in_the_middle(crowded) - 0.728) < 0.02
    assert abs(share_in_the_middle(even) - 0.5) < 0.02
    assert crowded.min() > 0
    assert crowded.max() < 1


def test_timesteps_depend_on_the_generator_alone() -> None:
    first = sample_timesteps(4, "logit_normal", seeded(5), "cpu")
    torch.manual_seed(1)
    assert torch.equal(first, sample_timesteps(4, "logit_normal", seeded(5), "cpu"))
    assert not torch.equal(first, sample_timesteps(4, "logit_normal", seeded(6), "cpu"))
