import torch

from modeling.flow import interpolate, prediction_loss, resolution_shift, shift_timesteps, velocity
from tests.modeling.builders import latents, randn

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
    loss, per_sample = prediction_loss(target, target, torch.ones(2, 4))
    assert loss == 0
    assert torch.equal(per_sample, torch.zeros(2))
    assert prediction_loss(NOISE, target, torch.ones(2, 4))[0] > 0.1


def test_the_loss_is_the_mean_over_frames_that_were_not_given() -> None:
    predicted, target = latents(seed=3), velocity(DATA, NOISE)
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    loss, per_sample = prediction_loss(predicted, target, mask)
    expected = [
        (predicted[0, :, 1:] - target[0, :, 1:]).square().mean(),
        (predicted[1, :, 2:] - target[1, :, 2:]).square().mean(),
    ]
    torch.testing.assert_close(per_sample, torch.stack(expected))
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_the_loss_is_limited_to_kept_positions() -> None:
    predicted, target = latents(seed=3), velocity(DATA, NOISE)
    kept = torch.zeros(4, 4, 6, dtype=torch.bool)
    kept[1:, :2, 2:4] = True
    loss, _ = prediction_loss(predicted, target, torch.ones(2, 4), kept)
    expected = (predicted - target)[:, :, 1:, :2, 2:4].square().mean()
    torch.testing.assert_close(loss, expected)


def test_a_clip_with_every_frame_given_has_zero_loss_and_finite_gradient() -> None:
    predicted = randn(1, 4, 2, 4, 6).requires_grad_()
    loss, _ = prediction_loss(predicted, torch.zeros(1, 4, 2, 4, 6), torch.zeros(1, 2))
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_shift_multiplies_the_ratio_of_noise_to_signal_and_keeps_the_ends() -> None:
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    shifted = shift_timesteps(t, 3.0)
    inner = slice(1, 4)
    ratio = ((1 - shifted) / shifted)[inner] / ((1 - t) / t)[inner]
    torch.testing.assert_close(ratio, torch.full((3,), 3.0, dtype=torch.float64))
    assert shifted[[0, -1]].tolist() == [0.0, 1.0]
    assert torch.equal(shift_timesteps(t, 1.0), t)


def test_four_times_the_tokens_shift_by_two() -> None:
    assert resolution_shift(1024, 256) == 2.0
    assert resolution_shift(256, 256) == 1.0
