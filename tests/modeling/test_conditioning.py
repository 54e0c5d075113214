from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from modeling.conditioning import (
    Conditions,
    concatenate_conditions,
    concatenate_text,
    draw_dropout,
    drop_image,
    drop_text,
    loss_mask,
    null_conditions,
    replace_frames,
)
from modeling.flow import interpolate, prediction_loss
from tests.modeling.builders import (
    conditions,
    latents,
    randomize,
    seeded,
    small_model,
    text_features,
    times,
)

CLEAN, NOISE = latents(seed=1), latents(seed=2)
NULL_TEXT = text_features(1, num_tokens=2, seed=9)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_given_frames_are_the_clean_ones_bit_for_bit_at_any_time(t: float) -> None:
    x_t = interpolate(CLEAN, NOISE, torch.full((2,), t))
    replaced = replace_frames(x_t, conditions(x_t, given=(0,), given_latents=CLEAN))
    assert torch.equal(replaced[:, :, 0], CLEAN[:, :, 0])
    assert torch.equal(replaced[:, :, 1:], x_t[:, :, 1:])


def test_what_is_stored_where_no_frame_is_given_does_not_matter() -> None:
    given_latents = CLEAN.clone()
    given_latents[:, :, 1:] = torch.nan
    replaced = replace_frames(NOISE, conditions(NOISE, given=(0,), given_latents=given_latents))
    assert replaced.isfinite().all()


def test_the_given_frame_carries_no_loss_but_the_frame_in_its_token_does() -> None:
    """With a temporal patch of 2, frames 0 and 1 share their tokens."""
    model = randomize(small_model())
    assert model.config.temporal_patch == 2
    known = conditions(NOISE, given=(0,), given_latents=CLEAN)
    predicted = model(NOISE, times(), known)
    predicted.retain_grad()
    loss, _ = prediction_loss(predicted, CLEAN - NOISE, loss_mask(known.given_BF))
    loss.backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad[:, :, 0], torch.zeros_like(predicted.grad[:, :, 0]))
    assert (predicted.grad[:, :, 1] != 0).all()


def test_the_noise_of_a_given_frame_does_not_reach_the_network() -> None:
    model = randomize(small_model())
    x_t = NOISE.clone().requires_grad_()
    model(x_t, times(), conditions(NOISE, given=(0,), given_latents=CLEAN)).sum().backward()
    assert x_t.grad is not None
    assert torch.equal(x_t.grad[:, :, 0], torch.zeros_like(x_t.grad[:, :, 0]))
    assert x_t.grad[:, :, 1].abs().max() > 0


@pytest.mark.parametrize("prob", [0.08, 0.1, 0.5])
def test_the_dropout_rate_is_within_binomial_bounds(prob: float) -> None:
    draws = 20_000
    rate = draw_dropout(draws, prob, seeded(3)).float().mean().item()
    assert abs(rate - prob) < 4 * (prob * (1 - prob) / draws) ** 0.5


def test_text_and_image_are_dropped_independently() -> None:
    generator = seeded(4)
    text, image = draw_dropout(50_000, 0.1, generator), draw_dropout(50_000, 0.08, generator)
    both = (text & image).float().mean().item()
    assert abs(both - 0.008) < 4 * (0.008 * 0.992 / 50_000) ** 0.5


def test_probability_zero_drops_nothing_and_one_everything() -> None:
    assert not draw_dropout(1000, 0.0, seeded()).any()
    assert draw_dropout(1000, 1.0, seeded()).all()


def test_dropped_rows_get_the_null_text_and_the_others_keep_theirs() -> None:
    known = conditions(NOISE)
    dropped = drop_text(known, NULL_TEXT, torch.tensor([True, False])).text
    assert torch.equal(dropped.tokens_BLD[0, :2], NULL_TEXT.tokens_BLD[0])
    assert dropped.mask_BL[0].tolist() == [True, True, False, False, False]
    assert torch.equal(dropped.pooled_BD[0], NULL_TEXT.pooled_BD[0])
    assert torch.equal(dropped.tokens_BLD[1], known.text.tokens_BLD[1])
    assert torch.equal(dropped.mask_BL[1], known.text.mask_BL[1])
    assert torch.equal(dropped.pooled_BD[1], known.text.pooled_BD[1])


def test_a_dropped_image_leaves_the_noised_frame() -> None:
    known = conditions(NOISE, given=(0,), given_latents=CLEAN)
    dropped = drop_image(known, torch.tensor([True, False]))
    replaced = replace_frames(NOISE, dropped)
    assert torch.equal(replaced[0], NOISE[0])
    assert torch.equal(replaced[1, :, 0], CLEAN[1, :, 0])
    assert torch.equal(loss_mask(dropped.given_BF)[:, 0], torch.tensor([1.0, 0.0]))


def test_null_conditions_do_not_depend_on_text_or_image() -> None:
    first = null_conditions(conditions(NOISE, given=(0,), given_latents=CLEAN, seed=5), NULL_TEXT)
    second = null_conditions(conditions(NOISE, given_latents=NOISE, seed=6), NULL_TEXT)
    model = randomize(small_model())
    assert torch.equal(model(NOISE, times(), first), model(NOISE, times(), second))
    assert not first.given_BF.any()


def _with_text(known: Conditions) -> Conditions:
    return replace(known, text=text_features(2, seed=77))


def _with_image(known: Conditions) -> Conditions:
    return conditions(NOISE, given=(0,), given_latents=CLEAN)


@pytest.mark.parametrize("change", [_with_text, _with_image])
def test_conditions_reach_the_output(change: Callable[[Conditions], Conditions]) -> None:
    model = randomize(small_model())
    known = conditions(NOISE)
    difference = model(NOISE, times(), known) - model(NOISE, times(), change(known))
    assert (difference.flatten(1).abs().amax(dim=1) > 1e-3).all()


def test_padding_text_to_stack_it_does_not_change_the_output() -> None:
    model = randomize(small_model())
    known = conditions(NOISE)
    stacked = concatenate_text([known.text, text_features(3, num_tokens=9)])
    assert stacked.tokens_BLD.shape[:2] == (5, 9)
    padded = replace(
        known,
        text=replace(
            stacked,
            tokens_BLD=stacked.tokens_BLD[:2],
            mask_BL=stacked.mask_BL[:2],
            pooled_BD=stacked.pooled_BD[:2],
        ),
    )
    torch.testing.assert_close(model(NOISE, times(), padded), model(NOISE, times(), known))


def test_stacked_conditions_give_the_outputs_of_their_parts() -> None:
    model = randomize(small_model())
    first = conditions(NOISE, given=(0,), given_latents=CLEAN)
    second = null_conditions(first, NULL_TEXT)
    both = model(
        torch.cat([NOISE, NOISE]), times().repeat(2), concatenate_conditions([first, second])
    )
    torch.testing.assert_close(both[:2], model(NOISE, times(), first), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[2:], model(NOISE, times(), second), rtol=1e-4, atol=1e-5)


def test_moving_conditions_moves_every_tensor() -> None:
    moved = conditions(NOISE).to("meta")
    tensors = [
        moved.text.tokens_BLD,
        moved.text.mask_BL,
        moved.text.pooled_BD,
        moved.micro.original_size_B2,
        moved.micro.crop_top_left_B2,
        moved.micro.sampling_stride_B,
        moved.micro.num_frames_B,
        moved.given_BF,
        moved.given_latents_BCFHW,
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
