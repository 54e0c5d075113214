"""Frozen autoencoders of single frames: a hub VAE, and one that is fitted in the project.

STIV encodes a video frame by frame with a frozen image VAE (section 2.1).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modeling.errors import AutoencoderError

PIXEL_MAX = 255.0


class Autoencoder(Protocol):
    """Frames to latents of about unit size and back, each frame on its own, without gradients."""

    @property
    def name(self) -> str: ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def downsampling(self) -> int:
        """Pixels per latent pixel along height and width."""
        ...

    def encode(self, frames_BFHWC: Tensor) -> Tensor:
        """uint8 RGB frames to float32 latents (B, C, F, H / downsampling, W / downsampling)."""
        ...

    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        """Latents to uint8 RGB frames (B, F, H, W, C)."""
        ...


class PatchPCA:
    """Principal components of 8x8 RGB patches: a linear autoencoder that a CPU fits in seconds.

    A component with deviation s is scaled by 1 / sqrt(s) (half whitening), then all by one factor, so
    that the mean variance of the latents is 1. The two obvious choices are worse for a flow:

    - one global factor keeps s, so the brightness of a patch is 25 times larger than the finest of 16
      components (on photographs), which then lies below the unit noise for nearly all t;
    - full whitening makes every component as large and as costly as brightness: most of the capacity and
      of the loss go to detail that is hardly visible, and an error in it counts like a wrong brightness.

    Half way, an equal loss in two components means a squared pixel error in proportion to s, and sizes
    differ by 5 instead of 25.
    """

    name = "patch_pca"
    downsampling = 8

    def __init__(self, mean_P: Tensor, components_CP: Tensor, scale_C: Tensor) -> None:
        self._mean_P = mean_P
        self._components_CP = components_CP
        self._scale_C = scale_C
        """Latent = scale * (component . (patch - mean)), in pixels from -1 to 1."""

    @property
    def latent_channels(self) -> int:
        return self._components_CP.shape[0]

    @classmethod
    def fit(
        cls,
        frames_NHWC: Tensor,
        *,
        latent_channels: int = 16,
        seed: int = 0,
        max_patches: int = 200_000,
    ) -> "PatchPCA":
        """Fit on uint8 frames; the same frames and seed give the same bytes.

        The seed picks the patches where there are more than `max_patches`.

        Raises:
            AutoencoderError: wrong type or size of frames, or too few distinct patches.
        """
        _check_frames(frames_NHWC[None], cls.downsampling)
        patches_XP = _to_patches(frames_NHWC, cls.downsampling)
        if len(patches_XP) > max_patches:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(patches_XP), generator=generator)[:max_patches]
            patches_XP = patches_XP[chosen.to(patches_XP.device)]
        pixels_XP = _to_unit(patches_XP).double()
        mean_P = pixels_XP.mean(0)
        centred_XP = pixels_XP - mean_P
        variances, vectors = torch.linalg.eigh(centred_XP.T @ centred_XP / len(centred_XP))
        variance_C = variances.flip(0)[:latent_channels]
        components_CP = vectors.flip(1).T[:latent_channels]
        if len(variance_C) < latent_channels or variance_C[-1] <= 1e-9:
            raise AutoencoderError(
                f"the frames do not span {latent_channels} components; fit on more varied frames or "
                "ask for fewer latent channels"
            )
        scale_C = variance_C**-0.25
        scale_C = scale_C / (variance_C * scale_C**2).mean().sqrt()
        return cls(mean_P.float(), _fix_signs(components_CP).float(), scale_C.float())

    def encode(self, frames_BFHWC: Tensor) -> Tensor:
        _check_frames(frames_BFHWC, self.downsampling)
        batch, num_frames, height, width, _ = frames_BFHWC.shape
        patches_XP = _to_unit(_to_patches(frames_BFHWC.flatten(0, 1), self.downsampling))
        device = patches_XP.device
        centred_XP = patches_XP - self._mean_P.to(device)
        latents_XC = centred_XP @ (self._components_CP * self._scale_C[:, None]).T.to(device)
        grid = (height // self.downsampling, width // self.downsampling)
        return latents_XC.view(batch, num_frames, *grid, -1).permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        _check_latents(latents_BCFHW, self.latent_channels)
        batch, _, num_frames, rows, columns = latents_BCFHW.shape
        device, side = latents_BCFHW.device, self.downsampling
        latents_BFHWC = latents_BCFHW.float().permute(0, 2, 3, 4, 1)
        patches = latents_BFHWC @ (self._components_CP / self._scale_C[:, None]).to(device)
        patches = (patches + self._mean_P.to(device)).unflatten(-1, (side, side, 3))
        frames = patches.permute(0, 1, 2, 4, 3, 5, 6)
        return _to_uint8(frames.reshape(batch, num_frames, rows * side, columns * side, 3))

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, byte-identical for identical weights."""
        tensors = {
            "mean": self._mean_P.contiguous(),
            "components": self._components_CP.contiguous(),
            "scale": self._scale_C.contiguous(),
        }
        save_file(tensors, path, metadata={"autoencoder": self.name})

    @classmethod
    def load(cls, path: Path) -> "PatchPCA":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            AutoencoderError: the file is not safetensors, or holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                found = (file.metadata() or {}).get("autoencoder")
                if found != cls.name:
                    raise AutoencoderError(
                        f"{path} holds weights of {found!r}, expected {cls.name!r}; point to the file "
                        "that PatchPCA.save wrote"
                    )
                tensors = [file.get_tensor(name) for name in ("mean", "components", "scale")]
        except SafetensorError as error:
            raise AutoencoderError(f"{path} is not a complete safetensors file: {error}") from error
        return cls(*tensors)


class KLAutoencoder:
    """The image VAE of Stable Diffusion and its successors, through diffusers.

    `hub_id_or_folder` is for example `stabilityai/sd-vae-ft-ema`, STIV's first baseline, or a folder that
    `save_pretrained` wrote. Encoding takes the mean of the posterior, so it is deterministic.
    """

    name = "kl"

    def __init__(
        self,
        hub_id_or_folder: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_frames: int = 16,
    ) -> None:
        # Imported here: diffusers takes seconds to import and only this class needs it.
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        try:
            vae: Any = AutoencoderKL.from_pretrained(
                str(hub_id_or_folder), torch_dtype=dtype, use_safetensors=True
            )
        except OSError as error:
            raise AutoencoderError(
                f"cannot load the VAE {hub_id_or_folder} ({str(error).splitlines()[0]}); expected a model of the hub "
                "or a folder written by save_pretrained, with safetensors weights"
            ) from error
        self._vae = vae.to(device).requires_grad_(False).eval()
        self._vae.enable_slicing()
        self._max_frames = max_frames
        """Frames in one pass; the VAE's activations are large."""
        self._scale = float(self._vae.config["scaling_factor"])
        self._shift = float(self._vae.config["shift_factor"] or 0.0)
        self.latent_channels = int(self._vae.config["latent_channels"])
        self.downsampling = 2 ** (len(self._vae.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def encode(self, frames_BFHWC: Tensor) -> Tensor:
        _check_frames(frames_BFHWC, self.downsampling)
        pixels_XCHW = _to_unit(frames_BFHWC.flatten(0, 1)).permute(0, 3, 1, 2)
        latents = [
            self._vae.encode(part.to(self._vae.device, self._vae.dtype)).latent_dist.mode().float()
            for part in pixels_XCHW.split(self._max_frames)
        ]
        latents_XCHW = (torch.cat(latents) - self._shift) * self._scale
        latents_BFCHW = latents_XCHW.unflatten(0, frames_BFHWC.shape[:2])
        return latents_BFCHW.transpose(1, 2).contiguous().to(frames_BFHWC.device)

    @torch.no_grad()
    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        _check_latents(latents_BCFHW, self.latent_channels)
        latents_XCHW = (
            latents_BCFHW.float().transpose(1, 2).flatten(0, 1) / self._scale + self._shift
        )
        frames = [
            _to_uint8(self._vae.decode(part.to(self._vae.device, self._vae.dtype)).sample.float())
            for part in latents_XCHW.split(self._max_frames)
        ]
        frames_XHWC = torch.cat(frames).permute(0, 2, 3, 1)
        batch, _, num_frames = latents_BCFHW.shape[:3]
        return frames_XHWC.unflatten(0, (batch, num_frames)).contiguous().to(latents_BCFHW.device)


AUTOENCODERS: dict[str, Callable[[str], Autoencoder]] = {
    "patch_pca": lambda place: PatchPCA.load(Path(place)),
    "kl": KLAutoencoder,
}
"""Name in a config -> loader, given a file, a folder or a hub id."""


def psnr(frames: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 tensors; infinite where they are equal."""
    error = (frames.double() - other.double()).square().mean()
    return float(10 * torch.log10(PIXEL_MAX**2 / error))


def _check_frames(frames_BFHWC: Tensor, downsampling: int) -> None:
    shape = tuple(frames_BFHWC.shape)
    if frames_BFHWC.dtype != torch.uint8 or len(shape) != 5 or shape[-1] != 3:
        raise AutoencoderError(
            f"expected uint8 frames (B, F, H, W, 3), found {frames_BFHWC.dtype} {shape}"
        )
    if shape[2] % downsampling or shape[3] % downsampling:
        raise AutoencoderError(
            f"frames of {shape[2]}x{shape[3]} px do not divide by {downsampling}; crop or resize them"
        )


def _check_latents(latents_BCFHW: Tensor, channels: int) -> None:
    shape = tuple(latents_BCFHW.shape)
    if len(shape) != 5 or shape[1] != channels:
        raise AutoencoderError(f"expected latents (B, {channels}, F, H, W), found {shape}")


def _to_patches(frames_NHWC: Tensor, side: int) -> Tensor:
    count, height, width, channels = frames_NHWC.shape
    blocks = frames_NHWC.view(count, height // side, side, width // side, side, channels)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side * channels)


def _to_unit(pixels: Tensor) -> Tensor:
    """uint8 to -1..1."""
    return pixels.float() / (PIXEL_MAX / 2) - 1


def _to_uint8(unit: Tensor) -> Tensor:
    return ((unit + 1) * (PIXEL_MAX / 2)).round().clamp(0, PIXEL_MAX).to(torch.uint8)


def _fix_signs(components_CP: Tensor) -> Tensor:
    """Make the largest entry of each component positive: an eigenvector's sign is arbitrary."""
    largest = components_CP.abs().argmax(dim=1, keepdim=True)
    return components_CP * components_CP.gather(1, largest).sign()
