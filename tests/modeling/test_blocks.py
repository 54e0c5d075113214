import torch
from torch import Tensor, nn

from modeling.blocks import CrossAttention, SelfAttention, TemporalAttention
from modeling.rope import temporal_rotary
from tests.modeling.builders import randn, seeded, small_config

CPU = torch.device("cpu")
WIDTH, HEADS = 32, 2


def _attention(*, causal: bool = False) -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(small_config(), causal=causal)


def _attend(attention: SelfAttention, x: Tensor) -> Tensor:
    return attention(x, temporal_rotary(x.shape[1], WIDTH // HEADS, CPU))


def test_one_position_does_not_depend_on_queries_and_keys() -> None:
    attention, x = _attention(), randn(3, 1, WIDTH)
    several = randn(3, 4, WIDTH)
    one_before, several_before = _attend(attention, x), _attend(attention, several)
    with torch.no_grad():
        attention.qkv.weight[: 2 * WIDTH] = torch.randn(2 * WIDTH, WIDTH, generator=seeded())
    torch.testing.assert_close(_attend(attention, x), one_before)
    assert not torch.allclose(_attend(attention, several), several_before, atol=1e-3)


def test_query_norm_takes_the_scale_out_of_the_scores() -> None:
    attention, x = _attention(), randn(2, 5, WIDTH)
    before = _attend(attention, x)
    with torch.no_grad():
        attention.qkv.weight[: 2 * WIDTH] *= 100
        attention.qkv.bias[: 2 * WIDTH] *= 100
    torch.testing.assert_close(_attend(attention, x), before, rtol=1e-3, atol=1e-4)


def test_causal_attention_does_not_see_later_positions() -> None:
    x = randn(2, 5, WIDTH)
    changed = x.clone()
    changed[:, 3:] += 1
    causal, open_ended = _attention(causal=True), _attention()
    torch.testing.assert_close(_attend(causal, changed)[:, :3], _attend(causal, x)[:, :3])
    assert not torch.allclose(
        _attend(open_ended, changed)[:, :3], _attend(open_ended, x)[:, :3], atol=1e-3
    )


def test_cross_attention_ignores_masked_text() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(small_config())
    x, text = randn(1, 2, 3, WIDTH), randn(1, 4, WIDTH, seed=1)
    mask = torch.tensor([[True, True, True, False]])
    changed_padding, changed_token = text.clone(), text.clone()
    changed_padding[:, 3] += 10
    changed_token[:, 2] += 10
    before = attention(x, text, mask)
    assert before.shape == x.shape
    torch.testing.assert_close(attention(x, changed_padding, mask), before)
    assert not torch.allclose(attention(x, changed_token, mask), before, atol=1e-3)


def test_temporal_attention_mixes_frames_of_one_position_only() -> None:
    torch.manual_seed(0)
    temporal = TemporalAttention(small_config())
    assert temporal.gate_D is not None
    nn.init.ones_(temporal.gate_D)
    positions = temporal_rotary(3, WIDTH // HEADS, CPU)
    x = randn(1, 3, 4, WIDTH)
    changed = x.clone()
    changed[:, 0, 2] = randn(WIDTH, seed=9)
    difference = (
        (temporal(changed, positions, None) - temporal(x, positions, None)).abs().amax(dim=(0, 3))
    )
    assert (difference[:, 2] > 1e-4).all()
    assert (difference[:, [0, 1, 3]] < 1e-5).all()
