import pytest
import torch
from torch import Tensor

from modeling.conditioning import Conditions
from modeling.errors import WeightFlowError
from modeling.inflate import load_stage
from tests.modeling.builders import conditions, latents, randomize, small_model, times


def _static_clip(image: Tensor, num_frames: int) -> tuple[Tensor, Conditions]:
    """A clip of one repeated frame, with the text and micro-conditions of the image."""
    clip = image.expand(-1, -1, num_frames, -1, -1).contiguous()
    of_image = conditions(image)
    return clip, Conditions(
        of_image.text, of_image.micro, torch.zeros(2, num_frames, dtype=torch.bool), clip
    )


@pytest.mark.parametrize(
    ("temporal_patch", "temporal_attention"), [(2, False), (2, True), (1, False)]
)
def test_a_static_clip_gets_the_output_of_the_image_model(
    temporal_patch: int, temporal_attention: bool
) -> None:
    image_model = randomize(
        small_model(temporal_patch=temporal_patch, temporal_attention=temporal_attention)
    )
    video_model = small_model()
    load_stage(video_model, image_model.state_dict(), kind="t2i_to_t2v")
    image = latents(num_frames=1)
    clip, of_clip = _static_clip(image, 4)
    expected = image_model(image, times(), conditions(image))
    output = video_model(clip, times(), of_clip)
    torch.testing.assert_close(output, expected.expand_as(output), rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_the_report_says_where_each_tensor_came_from() -> None:
    image_model = randomize(small_model(temporal_patch=1, temporal_attention=False))
    video_model = small_model()
    report = load_stage(video_model, image_model.state_dict(), kind="t2i_to_t2v")
    assert set(report.inflated) == {
        "patch_embedding.weight",
        "final_layer.linear.weight",
        "final_layer.linear.bias",
    }
    assert all(".temporal_attention" in name for name in report.fresh)
    every = [*report.loaded, *report.inflated, *report.fresh]
    assert sorted(every) == sorted(video_model.state_dict())
    assert report.ignored == ()


def test_temporal_weights_of_an_image_stage_are_ignored_and_reported() -> None:
    video_model = small_model()
    before = {name: tensor.clone() for name, tensor in video_model.state_dict().items()}
    report = load_stage(video_model, randomize(small_model()).state_dict(), kind="t2i_to_t2v")
    after = video_model.state_dict()
    assert report.ignored == report.fresh
    assert len(report.fresh) > 0
    assert all(torch.equal(after[name], before[name]) for name in report.fresh)
    assert not torch.equal(after["patch_embedding.weight"], before["patch_embedding.weight"])


def test_the_same_stage_loads_everything() -> None:
    trained, model, x = randomize(small_model()), small_model(), latents()
    report = load_stage(model, trained.state_dict(), kind="same")
    assert report.fresh == report.inflated == report.ignored == ()
    known = conditions(x)
    assert torch.equal(model(x, times(), known), trained(x, times(), known))


def test_every_mismatch_is_listed_and_nothing_is_loaded() -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = randomize(small_model()).state_dict()
    del weights["mask_token_D"]
    weights["stray"] = torch.zeros(1)
    weights["text_projection.hidden.weight"] = torch.zeros(3, 3)
    with pytest.raises(WeightFlowError) as caught:
        load_stage(model, weights, kind="same")
    message = str(caught.value)
    assert "in 3 tensors" in message
    assert "mask_token_D: missing" in message
    assert "stray: unknown" in message
    assert "text_projection.hidden.weight: shape (3, 3), expected (32, 12)" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_image_weights_do_not_pass_for_video_weights() -> None:
    image_weights = small_model(temporal_attention=False).state_dict()
    with pytest.raises(WeightFlowError, match=r"temporal_attention\.gate_D: missing"):
        load_stage(small_model(), image_weights, kind="same")


def test_both_takes_temporal_attention_from_the_video_model_and_the_rest_from_images() -> None:
    """T2V at high resolution from T2I at high and T2V at low resolution (STIV section 2.4)."""
    images = randomize(small_model(temporal_patch=1, temporal_attention=False), seed=1)
    videos = randomize(small_model(), seed=2)
    model = small_model()
    report = load_stage(
        model, images.state_dict(), kind="t2i_to_t2v", temporal_from=videos.state_dict()
    )
    assert report.fresh == report.ignored == ()
    assert set(report.temporal) == {n for n in model.state_dict() if ".temporal_attention" in n}
    every = [*report.loaded, *report.inflated, *report.temporal]
    assert sorted(every) == sorted(model.state_dict())
    found = model.state_dict()
    assert all(torch.equal(found[n], videos.state_dict()[n]) for n in report.temporal)
    assert all(torch.equal(found[n], images.state_dict()[n]) for n in report.loaded)
    assert f"{len(report.temporal)} tensors temporal attention" in report.summary()


def test_both_wants_all_of_temporal_attention() -> None:
    images = small_model(temporal_patch=1, temporal_attention=False).state_dict()
    shallow = small_model(depth=1).state_dict()
    with pytest.raises(WeightFlowError, match=r"blocks\.1\.temporal_attention\.gate_D: missing"):
        load_stage(small_model(), images, kind="t2i_to_t2v", temporal_from=shallow)


def test_temporal_modulation_is_fresh_too_and_starts_without_effect() -> None:
    images = randomize(small_model(temporal_patch=1, temporal_attention=False))
    model = small_model(temporal_modulation=True)
    report = load_stage(model, images.state_dict(), kind="t2i_to_t2v")
    assert "modulation.temporal_attention.weight" in report.fresh
    clip, of_clip = _static_clip(latents(num_frames=1), 4)
    expected = images(latents(num_frames=1), times(), conditions(latents(num_frames=1)))
    output = model(clip, times(), of_clip)
    torch.testing.assert_close(output, expected.expand_as(output), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("projector", ["linear", "resnet"])
def test_a_stage_with_image_attention_starts_as_the_one_without(projector: str) -> None:
    video, x = randomize(small_model()), latents()
    model = small_model(image_attention=projector)
    report = load_stage(model, video.state_dict(), kind="same")
    assert report.fresh
    assert all("image_" in name for name in report.fresh)
    known = conditions(x, given=(0,), given_latents=latents(seed=4))
    torch.testing.assert_close(model(x, times(), known), video(x, times(), known))


def test_higher_resolution_and_more_frames_take_every_weight() -> None:
    trained = randomize(small_model())
    model = small_model(rotary_grid=(2, 2, 3))
    report = load_stage(model, trained.state_dict(), kind="same")
    assert report.fresh == report.inflated == report.temporal == report.ignored == ()
    x = latents()
    assert torch.equal(model(x, times(), conditions(x)), trained(x, times(), conditions(x)))
