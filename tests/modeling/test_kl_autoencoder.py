"""On a small random VAE that is written here: the loading code is that of the hub path."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.autoencoder import AUTOENCODERS, Autoencoder
from modeling.errors import AutoencoderError
from modeling.kl_autoencoder import KLAutoencoder
from modeling.settings import KLSettings
from tests.modeling.builders import randn, smooth_frames

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder, with the VAE in `vae` and something else beside it."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(0)
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "latent_channels": 3,
        "scaling_factor": 0.5,
        "shift_factor": 0.25,
    }
    path = tmp_path_factory.mktemp("pipeline")
    vae: Any = AutoencoderKL(**config).eval()
    vae.save_pretrained(path / "vae")
    widths: dict[str, Any] = {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    }
    other: Any = AutoencoderTiny(**widths)
    other.save_pretrained(path / "other")
    return path


@pytest.fixture(scope="module")
def vae_folder(folder: Path) -> Path:
    return folder / "vae"


def test_a_vae_is_loaded_from_a_folder_and_scaled(vae_folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    autoencoder: Autoencoder = AUTOENCODERS["kl"](str(vae_folder))
    assert (autoencoder.name, autoencoder.latent_channels, autoencoder.downsampling) == ("kl", 3, 2)
    frames = smooth_frames(6, height=16, width=24).unflatten(0, (2, 3))
    latents = autoencoder.encode(frames)
    assert latents.shape == (2, 3, 3, 8, 12)
    pixels = frames[1, 2].permute(2, 0, 1)[None].float() / 127.5 - 1
    vae: Any = AutoencoderKL.from_pretrained(str(vae_folder))
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mode()
        pixels = vae.decode(mean).sample
    torch.testing.assert_close(latents[1:, :, 2], (mean - 0.25) * 0.5, rtol=1e-3, atol=1e-4)
    decoded = autoencoder.decode(latents)
    assert (decoded.shape, decoded.dtype) == (frames.shape, torch.uint8)
    expected = ((pixels[0] + 1) * 127.5).clamp(0, 255).permute(1, 2, 0)
    torch.testing.assert_close(decoded[1, 2].float(), expected, rtol=0, atol=0.6)
    assert not torch.equal(autoencoder.decode(latents + randn(1, 3, 1, 1, 1)), decoded)


def test_the_vae_of_a_pipeline_is_in_its_subfolder(folder: Path, vae_folder: Path) -> None:
    frames = smooth_frames(2, height=16, width=24)[None]
    found = KLAutoencoder(folder, KLSettings(subfolder="vae")).encode(frames)
    assert torch.equal(found, KLAutoencoder(vae_folder).encode(frames))


def test_slices_give_what_the_whole_gives_and_do_not_see_each_other(vae_folder: Path) -> None:
    frames = smooth_frames(6, height=16, width=24).unflatten(0, (2, 3))
    sliced = KLAutoencoder(vae_folder)
    latents = sliced.encode(frames)
    decoded = sliced.decode(latents)
    for at_once in (4, 16):
        whole = KLAutoencoder(vae_folder, KLSettings(frames_at_once=at_once))
        torch.testing.assert_close(whole.encode(frames), latents, rtol=1e-5, atol=1e-5)
        # Convolutions of another batch size round otherwise in the last bit.
        assert (whole.decode(latents).int() - decoded.int()).abs().max() <= 1
    assert torch.equal(sliced.decode(latents[1:, :, 2:]), decoded[1:, 2:])


def test_tiles_change_nothing_in_a_frame_of_one_tile_and_little_in_a_larger_one(
    vae_folder: Path,
) -> None:
    small = smooth_frames(2, height=32, width=48)[None]
    large = smooth_frames(2, height=96, width=128)[None]
    whole = KLAutoencoder(vae_folder)
    tiled = KLAutoencoder(vae_folder, KLSettings(tile_px=48))
    latents = whole.encode(small)
    assert torch.equal(tiled.encode(small), latents)
    assert torch.equal(tiled.decode(latents), whole.decode(latents))

    expected = whole.encode(large)
    assert not torch.equal(tiled.encode(large), expected)
    assert (tiled.encode(large) - expected).abs().mean() < 0.5 * expected.std()
    difference = tiled.decode(expected).float() - whole.decode(expected).float()
    # Random weights with group norms over the whole frame make this the worst case.
    assert 0 < difference.abs().mean() < 20


def test_tiles_that_cut_a_latent_pixel_are_refused(vae_folder: Path) -> None:
    with pytest.raises(AutoencoderError, match=r"tile_px 33 does not divide by 2.*take 32"):
        KLAutoencoder(vae_folder, KLSettings(tile_px=33))


def test_weights_are_held_in_the_stated_type_and_latents_stay_float32(vae_folder: Path) -> None:
    frames = smooth_frames(2, height=16, width=24)[None]
    expected = KLAutoencoder(vae_folder).encode(frames)
    latents = KLAutoencoder(vae_folder, KLSettings(dtype="bfloat16")).encode(frames)
    assert latents.dtype == torch.float32
    assert not torch.equal(latents, expected)
    torch.testing.assert_close(latents, expected, rtol=0.1, atol=0.1)


def test_what_is_no_vae_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AutoencoderError, match=r"cannot load the VAE .*nothing at revision v2"):
        KLAutoencoder(tmp_path / "nothing", KLSettings(revision="v2"))
    with pytest.raises(AutoencoderError, match="in other is of class AutoencoderTiny, exp"):
        KLAutoencoder(folder, KLSettings(subfolder="other"))


def test_diffusers_is_imported_only_when_a_vae_is_loaded() -> None:
    program = "import sys, modeling.autoencoder; print('diffusers' in sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert output.strip() == "False"
