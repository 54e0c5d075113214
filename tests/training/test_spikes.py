import math

import pytest

from training.spikes import NORM_DECAY, NUM_NORMS_BEFORE, AdaptiveClip


def test_norms_are_free_at_first_and_then_bounded_by_mean_and_spread() -> None:
    clip = AdaptiveClip(3.0)
    norms = [1.0, 2.0] * (NUM_NORMS_BEFORE // 2)
    for norm in norms:
        assert clip.bound() == math.inf
        clip.take_in(norm)
    weights = [NORM_DECAY ** (len(norms) - 1 - place) for place in range(len(norms))]
    total = sum(weights)
    mean = sum(w * n for w, n in zip(weights, norms, strict=True)) / total
    spread = math.sqrt(
        sum(w * (n - mean) ** 2 for w, n in zip(weights, norms, strict=True)) / total
    )
    assert clip.bound() == pytest.approx(mean + 3 * spread)


def test_a_spike_does_not_make_the_next_one_usual() -> None:
    clip = AdaptiveClip(2.0)
    for place in range(100):
        clip.take_in(1.0 + 0.1 * (place % 2))
    before = clip.bound()
    clip.take_in(1e6)
    assert before < 1.2
    assert clip.bound() < 1.3
