import pytest
import torch

from modeling.masking import KeptPositions, draw_kept_positions, kept_latents, unmask
from tests.modeling.builders import (
    conditions,
    latents,
    randn,
    randomize,
    seeded,
    small_config,
    small_model,
    times,
)


def test_kept_positions_are_distinct_ascending_and_as_many_as_asked() -> None:
    kept = draw_kept_positions(28, 0.5, seeded())
    assert len(kept) == 14
    assert (kept.diff() > 0).all()
    assert kept.min() >= 0
    assert kept.max() < 28


def test_different_draws_keep_different_positions() -> None:
    generator = seeded()
    first, second = (draw_kept_positions(28, 0.5, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, draw_kept_positions(28, 0.5, seeded()))


def test_ratio_zero_keeps_everything_and_a_high_one_at_least_one() -> None:
    assert torch.equal(draw_kept_positions(6, 0.0, seeded()), torch.arange(6))
    assert len(draw_kept_positions(6, 0.99, seeded())) == 1


@pytest.mark.parametrize("mask_ratio", [-0.1, 1.0])
def test_an_impossible_ratio_is_refused(mask_ratio: float) -> None:
    with pytest.raises(ValueError, match="below 1"):
        draw_kept_positions(6, mask_ratio, seeded())


def test_unmasking_puts_tokens_back_and_blank_ones_elsewhere() -> None:
    kept, blank = randn(2, 3, 2, 8), randn(3, 6, 8, seed=1)
    full = unmask(kept, KeptPositions(torch.tensor([1, 4])), blank)
    assert torch.equal(full[:, :, [1, 4]], kept)
    hidden = [0, 2, 3, 5]
    assert torch.equal(full[:, :, hidden], blank[:, hidden].expand(2, 3, 4, 8))


def test_unmasking_both_axes_is_the_inverse_of_keeping() -> None:
    whole, blank = randn(2, 4, 6, 8), randn(4, 6, 8, seed=1)
    kept = KeptPositions(torch.tensor([1, 4]), torch.tensor([0, 3]))
    full = unmask(kept.of(whole), kept, blank)
    assert torch.equal(kept.of(full), kept.of(whole))
    hidden = torch.ones(4, 6, dtype=torch.bool)
    hidden[[[0], [3]], [1, 4]] = False
    assert torch.equal(full[:, hidden], blank[hidden].expand(2, -1, 8))


def test_kept_latents_covers_the_patches_of_kept_positions() -> None:
    spatial = KeptPositions(torch.tensor([0, 4]))
    everywhen = kept_latents(spatial, (3, 4, 6), small_config())
    kept = everywhen[0]
    assert torch.equal(everywhen, kept.expand(3, 4, 6))
    both = KeptPositions(torch.tensor([0, 4]), torch.tensor([1]))
    assert kept_latents(both, (3, 4, 6), small_config()).any((1, 2)).tolist() == [
        False,
        False,
        True,
    ]
    assert kept.nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [2, 2],
        [2, 3],
        [3, 2],
        [3, 3],
    ]


def test_keeping_every_position_equals_no_mask_exactly() -> None:
    model, x = randomize(small_model()), latents()
    keep = KeptPositions(draw_kept_positions(6, 0.0, seeded()))
    masked = model(x, times(), conditions(x), kept=keep)
    assert torch.equal(masked, model(x, times(), conditions(x)))
    assert masked.abs().max() > 0.1


def test_masked_positions_do_not_see_their_own_latents_but_get_a_prediction() -> None:
    model, x = randomize(small_model()), latents()
    keep = KeptPositions(torch.tensor([0, 2, 3, 5]))
    hidden = ~kept_latents(keep, (4, 4, 6), small_config())[0]
    changed = x.clone()
    changed[..., hidden] += 1.0
    predicted = model(x, times(), conditions(x), kept=keep)
    assert torch.equal(model(changed, times(), conditions(x), kept=keep), predicted)
    assert predicted[..., hidden].abs().min() > 0


def test_the_mask_token_learns_from_masked_positions() -> None:
    model, x = randomize(small_model()), latents()
    model(
        x, times(), conditions(x), kept=KeptPositions(torch.tensor([0, 3]))
    ).square().mean().backward()
    assert model.mask_token_D.grad is not None
    assert model.mask_token_D.grad.abs().max() > 0
