import pytest
import torch
from torch import Tensor, nn

from modeling.conditioning import Conditions, MicroConditions, TextFeatures
from modeling.masking import KeptPositions
from modeling.stiv import STIV
from tests.modeling.builders import conditions, latents, randomize, seeded, small_model, times


def _permuted(known: Conditions, order: Tensor) -> Conditions:
    text, micro = known.text, known.micro
    return Conditions(
        text=TextFeatures(text.tokens_BLD[order], text.mask_BL[order], text.pooled_BD[order]),
        micro=MicroConditions(
            micro.original_size_B2[order],
            micro.crop_top_left_B2[order],
            micro.sampling_stride_B[order],
            micro.num_frames_B[order],
        ),
        given_BF=known.given_BF[order],
        given_latents_BCFHW=known.given_latents_BCFHW[order],
    )


@pytest.mark.parametrize("keep", [None, KeptPositions(torch.tensor([0, 1, 4]))])
def test_the_output_is_exactly_zero_at_initialisation(keep: KeptPositions | None) -> None:
    x = latents()
    output = small_model()(x, times(), conditions(x, given=(0,)), kept=keep)
    assert torch.equal(output, torch.zeros_like(x))


def test_every_block_is_the_identity_at_initialisation() -> None:
    """Only the last layer is turned on, so the tokens must reach it untouched."""
    model, x = small_model(), latents()
    nn.init.normal_(model.final_layer.linear.weight, generator=seeded())
    shallow = small_model(depth=1, num_unmasked_blocks=0)
    shallow.load_state_dict(model.state_dict(), strict=False)
    expected = shallow(x, times(), conditions(x))
    assert torch.equal(model(x, times(), conditions(x)), expected)
    assert expected.abs().max() > 0.1


def test_permuting_the_batch_permutes_the_output() -> None:
    model, x = randomize(small_model()), latents(batch=3)
    known, order = conditions(x, given=(0,), given_latents=latents(batch=3, seed=1)), [2, 0, 1]
    output = model(x, times(3), known)
    permuted = model(x[order], times(3)[order], _permuted(known, torch.tensor(order)))
    torch.testing.assert_close(permuted, output[order], rtol=1e-4, atol=1e-5)
    assert (output[0] - output[1]).abs().max() > 0.1


def test_every_parameter_gets_a_gradient() -> None:
    model, x = randomize(small_model()), latents()
    model(
        x, times(), conditions(x), kept=KeptPositions(torch.tensor([0, 2]))
    ).square().mean().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_one_temporal_position_does_not_depend_on_temporal_attention() -> None:
    model = randomize(small_model())
    image, clip = latents(num_frames=1), latents(num_frames=4)
    image_before = model(image, times(), conditions(image))
    clip_before = model(clip, times(), conditions(clip))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".temporal_attention." in name:
                parameter.add_(1.0)
    assert torch.equal(model(image, times(), conditions(image)), image_before)
    assert not torch.allclose(model(clip, times(), conditions(clip)), clip_before, atol=1e-3)


def test_frames_influence_each_other_through_temporal_attention_only() -> None:
    x = latents()
    changed = x.clone()
    changed[:, :, 3] += 1.0
    video, image = randomize(small_model()), randomize(small_model(temporal_attention=False))

    def change_in_first_token(model: STIV) -> float:
        difference = model(changed, times(), conditions(x)) - model(x, times(), conditions(x))
        return difference[:, :, :2].abs().max().item()

    assert change_in_first_token(video) > 1e-3
    assert change_in_first_token(image) == 0


def test_causal_temporal_attention_looks_back_only() -> None:
    x = latents()
    changed = x.clone()
    changed[:, :, 3] += 1.0
    model = randomize(small_model(causal_temporal=True))
    difference = model(changed, times(), conditions(x)) - model(x, times(), conditions(x))
    assert difference[:, :, :2].abs().max() < 1e-5
    assert difference[:, :, 2:].abs().max() > 1e-3


@pytest.mark.parametrize("num_frames", [1, 3])
def test_an_odd_clip_is_a_clip_with_its_last_frame_repeated(num_frames: int) -> None:
    model, x = randomize(small_model()), latents(num_frames=num_frames)
    repeated = torch.cat([x, x[:, :, -1:]], dim=2)
    known = conditions(x)
    longer = Conditions(known.text, known.micro, torch.zeros(2, num_frames + 1).bool(), repeated)
    output = model(x, times(), known)
    assert output.shape == x.shape
    assert torch.equal(output, model(repeated, times(), longer)[:, :, :num_frames])


def test_the_output_depends_on_time() -> None:
    model, x = randomize(small_model()), latents()
    difference = model(x, times(), conditions(x)) - model(x, times() + 0.01, conditions(x))
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("absolute_positions", "told_apart"), [("none", False), ("sinusoidal", True), ("learned", True)]
)
def test_only_absolute_positions_place_tokens_of_equal_content(
    absolute_positions: str, told_apart: bool
) -> None:
    model, x = (
        randomize(small_model(absolute_positions=absolute_positions)),
        torch.ones(1, 4, 4, 4, 6),
    )
    patches = model(x, times(1), conditions(x)).unfold(3, 2, 2).unfold(4, 2, 2)
    spread = patches.flatten(3, 4).std(dim=3).max().item()
    assert (spread > 1e-2) is told_apart


def test_latents_that_do_not_divide_into_patches_are_refused() -> None:
    x = latents()[..., :5]
    with pytest.raises(ValueError, match="4x5 do not divide into patches of 2"):
        small_model()(x, times(), conditions(x))


def test_the_seed_alone_decides_the_weights() -> None:
    config = small_model().config
    torch.manual_seed(1)
    first = STIV(config, seed=3).state_dict()
    torch.manual_seed(2)
    second, other = STIV(config, seed=3).state_dict(), STIV(config, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["patch_embedding.weight"], other["patch_embedding.weight"])


def test_initialize_weights_sets_every_parameter() -> None:
    with torch.device("meta"):
        model = STIV(small_model().config)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    model.initialize_weights(seeded(0))
    expected = small_model().state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def test_bfloat16_autocast_stays_close() -> None:
    model, x = randomize(small_model()), latents()
    expected = model(x, times(), conditions(x))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x, times(), conditions(x), kept=KeptPositions(torch.arange(6)))
    assert output.dtype == torch.bfloat16
    assert (output - expected).norm() < 0.05 * expected.norm()
