from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modeling.autoencoder import AUTOENCODERS
from modeling.errors import AutoencoderError
from modeling.frames import psnr
from modeling.patch_pca import PatchPCA
from tests.modeling.builders import smooth_frames


@pytest.fixture(scope="module")
def fitted() -> PatchPCA:
    return PatchPCA.fit(smooth_frames(12), latent_channels=16)


def test_an_unseen_smooth_image_survives_the_round_trip(fitted: PatchPCA) -> None:
    frames = smooth_frames(6, seed=1).unflatten(0, (2, 3))
    latents = fitted.encode(frames)
    assert latents.shape == (2, 16, 3, 8, 12)
    assert latents.dtype == torch.float32
    decoded = fitted.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.uint8
    assert psnr(decoded, frames) > 25


def test_more_channels_keep_more_of_the_image() -> None:
    frames = smooth_frames(12)

    def quality(latent_channels: int) -> float:
        autoencoder = PatchPCA.fit(frames, latent_channels=latent_channels)
        return psnr(autoencoder.decode(autoencoder.encode(frames[None])), frames[None])

    assert quality(4) + 1 < quality(16) < quality(32) - 1


def test_each_frame_is_encoded_on_its_own(fitted: PatchPCA) -> None:
    frames = smooth_frames(4)[None]
    expected = [fitted.encode(frames[:, index : index + 1]) for index in range(4)]
    torch.testing.assert_close(fitted.encode(frames), torch.cat(expected, dim=2))


def test_latents_are_uncorrelated_of_unit_size_and_ordered(fitted: PatchPCA) -> None:
    latents_XC = fitted.encode(smooth_frames(12)[None]).transpose(0, 1).flatten(1).T
    covariance = latents_XC.T @ latents_XC / len(latents_XC)
    variance = covariance.diagonal()
    torch.testing.assert_close(variance.mean(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    assert (covariance - variance.diag()).abs().max() < 1e-3 * variance.max()
    assert (variance.diff() < 1e-6).all()


def test_latent_variance_is_the_root_of_pixel_variance(fitted: PatchPCA) -> None:
    """Half whitening: an error in a latent costs pixels in proportion to the latent's own variance."""
    frames = smooth_frames(12)[None]
    variance = fitted.encode(frames).transpose(0, 1).flatten(1).var(1)
    errors: list[Tensor] = []
    for channel in (0, 1, 5):
        impulse = torch.zeros(1, 16, 1, 1, 1)
        impulse[0, channel] = 0.5
        change = fitted.decode(impulse).float() - fitted.decode(torch.zeros_like(impulse)).float()
        errors.append(change.square().mean())
    expected = variance[[0, 1, 5]]
    costs = torch.stack(errors)
    torch.testing.assert_close(costs / costs[0], expected / expected[0], rtol=0.1, atol=0)
    assert expected[0] > 2 * expected[2]


def test_fitting_is_deterministic_and_the_seed_picks_the_patches() -> None:
    frames = smooth_frames(12)

    def latents(seed: int) -> Tensor:
        torch.manual_seed(seed)
        autoencoder = PatchPCA.fit(frames, latent_channels=8, seed=seed, max_patches=300)
        return autoencoder.encode(frames[None])

    assert torch.equal(latents(1), latents(1))
    assert not torch.allclose(latents(1), latents(2), atol=1e-3)


def test_saving_and_loading_gives_the_same_latents_and_the_same_bytes(
    fitted: PatchPCA, tmp_path: Path
) -> None:
    frames = smooth_frames(3)[None]
    fitted.save(tmp_path / "first.safetensors")
    loaded = AUTOENCODERS["patch_pca"](str(tmp_path / "first.safetensors"))
    assert loaded.latent_channels == 16
    assert torch.equal(loaded.encode(frames), fitted.encode(frames))
    PatchPCA.load(tmp_path / "first.safetensors").save(tmp_path / "second.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"mean": torch.zeros(1)}, path, metadata={"autoencoder": "kl"})
    with pytest.raises(AutoencoderError, match="weights of 'kl', expected 'patch_pca'"):
        PatchPCA.load(path)
    path.write_bytes(b"cut short")
    with pytest.raises(AutoencoderError, match="not a complete safetensors file"):
        PatchPCA.load(path)
    with pytest.raises(FileNotFoundError):
        PatchPCA.load(tmp_path / "missing.safetensors")


def test_uniform_frames_cannot_be_fitted() -> None:
    with pytest.raises(AutoencoderError, match="do not span 16 components"):
        PatchPCA.fit(torch.full((2, 16, 16, 3), 7, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 1, 12, 16, 3, dtype=torch.uint8), "12x16 px do not divide by 8"),
        (torch.zeros(1, 1, 16, 16, 3), "expected uint8 frames"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "expected uint8 frames"),
    ],
)
def test_wrong_frames_are_refused(fitted: PatchPCA, frames: Tensor, message: str) -> None:
    with pytest.raises(AutoencoderError, match=message):
        fitted.encode(frames)


def test_latents_of_another_autoencoder_are_refused(fitted: PatchPCA) -> None:
    with pytest.raises(AutoencoderError, match=r"expected latents \(B, 16"):
        fitted.decode(torch.zeros(1, 4, 1, 8, 8))
