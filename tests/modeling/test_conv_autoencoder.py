from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from modeling.autoencoder import AUTOENCODERS
from modeling.conv_autoencoder import ConvAutoencoder
from modeling.errors import AutoencoderError
from modeling.frames import psnr
from modeling.patch_pca import PatchPCA
from modeling.settings import ConvSettings
from tests.modeling.builders import smooth_frames
from tests.photographs import sample_photo

SMALL = ConvSettings(width=16, num_decoder_blocks=1, num_steps=3, batch_size=2, crop_px=16)


def shrunk(photo_HWC: Tensor) -> Tensor:
    """A third of the size, averaged: single pixels of a photograph are noise that nothing predicts."""
    pooled = functional.avg_pool2d(photo_HWC.permute(2, 0, 1).float(), 3)
    return pooled.round().byte().permute(1, 2, 0)


def photo_clip(left: int, right: int, num_frames: int) -> Tensor:
    """A camera that pans over a part of two photographs: uint8 (2 * num_frames, 48, 64, 3)."""
    frames: list[Tensor] = []
    for name in ("china.jpg", "flower.jpg"):
        photo = shrunk(torch.from_numpy(sample_photo(name).copy()))
        places = torch.linspace(left, right - 64, num_frames).long().tolist()
        frames += [photo[60 + place % 30 :, place:][:48, :64] for place in places]
    return torch.stack(frames)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def fitted() -> ConvAutoencoder:
    return ConvAutoencoder.fit(smooth_frames(6), latent_channels=8, settings=SMALL)


@pytest.mark.slow
def test_it_beats_patch_pca_on_another_part_of_the_photographs() -> None:
    train, held_out = photo_clip(0, 140, 24), photo_clip(140, 213, 4)[None]
    settings = ConvSettings(num_decoder_blocks=1, num_steps=250, crop_px=32)
    conv = ConvAutoencoder.fit(train, latent_channels=4, settings=settings)
    pca = PatchPCA.fit(train, latent_channels=4)

    def quality(autoencoder: ConvAutoencoder | PatchPCA) -> float:
        return psnr(autoencoder.decode(autoencoder.encode(held_out)), held_out)

    assert quality(conv) > quality(pca) + 0.3


def test_a_fit_starts_from_patch_pca() -> None:
    """With a learning rate of nearly nothing the corrections stay zero."""
    frames = smooth_frames(6)
    settings = SMALL.model_copy(update={"learning_rate": 1e-12})
    conv = ConvAutoencoder.fit(frames, latent_channels=8, settings=settings)
    pca = PatchPCA.fit(frames, latent_channels=8)
    torch.testing.assert_close(
        conv.encode(frames[None]), pca.encode(frames[None]), rtol=0, atol=1e-2
    )
    one = pca.decode(pca.encode(frames[None])).int()
    assert (conv.decode(conv.encode(frames[None])).int() - one).abs().max() <= 1


def test_latents_of_the_fitted_frames_have_zero_mean_and_mean_variance_one() -> None:
    frames = photo_clip(0, 213, 6)
    settings = SMALL.model_copy(update={"num_steps": 40})
    conv = ConvAutoencoder.fit(frames, latent_channels=8, settings=settings)
    latents_CX = conv.encode(frames[None])[0].flatten(1)
    assert latents_CX.mean(1).abs().max() < 1e-4
    torch.testing.assert_close(latents_CX.var(1).mean(), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_one_frame_and_many_have_the_same_latents_and_exactly_the_same_pixels(
    fitted: ConvAutoencoder,
) -> None:
    frames = smooth_frames(6, seed=1).unflatten(0, (2, 3))
    latents = fitted.encode(frames)
    assert (latents.shape, latents.dtype) == ((2, 8, 3, 8, 12), torch.float32)
    decoded = fitted.decode(latents)
    assert (decoded.shape, decoded.dtype) == (frames.shape, torch.uint8)
    image = frames[1:, 2:]
    torch.testing.assert_close(fitted.encode(image), latents[1:, :, 2:])
    assert torch.equal(fitted.decode(latents[1:, :, 2:]), decoded[1:, 2:])


def test_more_pixels_than_fit_one_pass_give_the_same_latents(
    fitted: ConvAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = smooth_frames(5)[None]
    whole = fitted.encode(frames)
    monkeypatch.setattr("modeling.conv_autoencoder.MAX_PIXELS_IN_ONE_PASS", 2 * 64 * 96)
    torch.testing.assert_close(fitted.encode(frames), whole)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    frames = smooth_frames(6)

    def latents(seed: int) -> Tensor:
        fit = ConvAutoencoder.fit(frames, latent_channels=8, settings=SMALL, seed=seed)
        return fit.encode(frames[None])

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = latents(1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, latents(1))
    assert not torch.equal(first, latents(2))


def test_progress_counts_every_step() -> None:
    seen: list[tuple[int, int]] = []
    ConvAutoencoder.fit(
        smooth_frames(6),
        latent_channels=4,
        settings=SMALL,
        on_step=lambda step, num_steps, _: seen.append((step, num_steps)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_saving_and_loading_gives_the_same_latents_pixels_and_bytes(
    fitted: ConvAutoencoder, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    fitted.save(first)
    loaded = ConvAutoencoder.load(first)
    assert loaded.settings == SMALL
    loaded.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]
    named = AUTOENCODERS["conv"](str(first))
    assert (named.name, named.latent_channels, named.downsampling) == ("conv", 8, 8)
    frames = smooth_frames(3, seed=2)[None]
    latents = fitted.encode(frames)
    assert torch.equal(named.encode(frames), latents)
    assert torch.equal(named.decode(latents), fitted.decode(latents))


def test_a_file_of_something_else_is_refused(fitted: ConvAutoencoder, tmp_path: Path) -> None:
    path = tmp_path / "autoencoder.safetensors"
    PatchPCA.fit(smooth_frames(6), latent_channels=4).save(path)
    with pytest.raises(AutoencoderError, match="weights of 'patch_pca', expected 'conv'"):
        ConvAutoencoder.load(path)
    fitted.save(path)
    with pytest.raises(AutoencoderError, match="weights of 'conv', expected 'patch_pca'"):
        PatchPCA.load(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AutoencoderError, match="not a complete safetensors file"):
        ConvAutoencoder.load(path)


def test_tensors_that_do_not_fit_the_settings_are_named(
    fitted: ConvAutoencoder, tmp_path: Path
) -> None:
    path = tmp_path / "autoencoder.safetensors"
    fitted.save(path)
    tensors = load_file(path)
    tensors["shift_C"] = torch.zeros(5)
    del tensors["size"]
    stated = f'conv {{"latent_channels": 8, {SMALL.model_dump_json()[1:]}'
    save_file(tensors, path, metadata={"autoencoder": stated})
    with pytest.raises(
        AutoencoderError, match=r"size is missing; shift_C is \(5,\), expected \(8,\)"
    ):
        ConvAutoencoder.load(path)
    save_file(tensors, path, metadata={"autoencoder": stated.replace("16", "-1")})
    with pytest.raises(AutoencoderError, match="settings that this code cannot read"):
        ConvAutoencoder.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 4}, "greater than or equal to 8"),
        ({"crop_px": 20}, "multiple of 8"),
        ({"num_steps": 0}, "greater than or equal to 1"),
    ],
)
def test_an_unfit_size_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConvSettings.model_validate(change)


def test_frames_and_latents_of_a_wrong_size_are_refused(fitted: ConvAutoencoder) -> None:
    with pytest.raises(AutoencoderError, match="12x16 px do not divide by 8"):
        fitted.encode(torch.zeros(1, 1, 12, 16, 3, dtype=torch.uint8))
    with pytest.raises(AutoencoderError, match="12x16 px do not divide by 8"):
        ConvAutoencoder.fit(torch.zeros(4, 12, 16, 3, dtype=torch.uint8))
    with pytest.raises(AutoencoderError, match=r"expected latents \(B, 8"):
        fitted.decode(torch.zeros(1, 4, 1, 8, 8))


def test_a_fit_that_diverges_says_what_to_change() -> None:
    settings = SMALL.model_copy(update={"learning_rate": 1e18, "num_steps": 30})
    with pytest.raises(AutoencoderError, match="diverged; fit with a learning_rate below"):
        ConvAutoencoder.fit(smooth_frames(6), latent_channels=4, settings=settings)
