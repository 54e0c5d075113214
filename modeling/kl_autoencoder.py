"""The image VAE of the latent diffusion models, through diffusers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling.errors import AutoencoderError
from modeling.frames import check_frames, check_latents, to_uint8, to_unit
from modeling.settings import KLSettings

CLASS_NAME = "AutoencoderKL"


class KLAutoencoder:
    """The image VAE of Stable Diffusion and its successors, through diffusers.

    `hub_id_or_folder` is for example `stabilityai/sd-vae-ft-ema`, STIV's first baseline, or a folder that
    `save_pretrained` wrote. Encoding takes the mean of the posterior, so it is deterministic. Latents
    are (mean - shift factor) * scaling factor of the model.
    """

    name = "kl"

    def __init__(
        self,
        hub_id_or_folder: str | Path,
        settings: KLSettings | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises AutoencoderError: there is no such model, it is of another class, its weights are not
        safetensors, or the tiles do not fit it."""
        settings = settings or KLSettings()
        vae = _load(str(hub_id_or_folder), settings)
        self._vae = vae.to(device).requires_grad_(False).eval()
        self._frames_at_once = settings.frames_at_once
        self._scale = float(vae.config["scaling_factor"])
        self._shift = float(vae.config["shift_factor"] or 0.0)
        self.latent_channels = int(vae.config["latent_channels"])
        self.downsampling = 2 ** (len(vae.config["block_out_channels"]) - 1)
        if settings.tile_px is not None:
            self._cut_into_tiles(settings.tile_px)

    @torch.no_grad()
    def encode(self, frames_BFHWC: Tensor) -> Tensor:
        check_frames(frames_BFHWC, self.downsampling)
        frames_XHWC = frames_BFHWC.flatten(0, 1)
        latents: list[Tensor] = []
        for part_XHWC in frames_XHWC.split(self._frames_at_once):
            pixels_XCHW = to_unit(part_XHWC).permute(0, 3, 1, 2)
            posterior = self._vae.encode(self._to_vae(pixels_XCHW)).latent_dist
            latents.append(posterior.mode().float())
        latents_XCHW = (torch.cat(latents) - self._shift) * self._scale
        latents_BFCHW = latents_XCHW.unflatten(0, frames_BFHWC.shape[:2])
        return latents_BFCHW.transpose(1, 2).contiguous().to(frames_BFHWC.device)

    @torch.no_grad()
    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        check_latents(latents_BCFHW, self.latent_channels)
        batch, _, num_frames = latents_BCFHW.shape[:3]
        latents_XCHW = latents_BCFHW.float().transpose(1, 2).flatten(0, 1)
        latents_XCHW = latents_XCHW / self._scale + self._shift
        frames = [
            to_uint8(self._vae.decode(self._to_vae(part)).sample.float())
            for part in latents_XCHW.split(self._frames_at_once)
        ]
        frames_XHWC = torch.cat(frames).permute(0, 2, 3, 1)
        return frames_XHWC.unflatten(0, (batch, num_frames)).contiguous().to(latents_BCFHW.device)

    def _to_vae(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._vae.device, self._vae.dtype)

    def _cut_into_tiles(self, tile_px: int) -> None:
        if tile_px % self.downsampling:
            raise AutoencoderError(
                f"tile_px {tile_px} does not divide by {self.downsampling}, the factor of this VAE; "
                f"take {tile_px // self.downsampling * self.downsampling}"
            )
        self._vae.enable_tiling()
        self._vae.tile_sample_min_size = tile_px
        self._vae.tile_latent_min_size = tile_px // self.downsampling


def _load(hub_id_or_folder: str, settings: KLSettings) -> Any:
    # Imported here: diffusers takes seconds to import and only this class needs it.
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    at = f" at revision {settings.revision}" if settings.revision else ""
    at += f" in {settings.subfolder}" if settings.subfolder else ""
    place: dict[str, Any] = {"revision": settings.revision, "subfolder": settings.subfolder}
    try:
        stated: Any = AutoencoderKL.load_config(hub_id_or_folder, **place)
        # diffusers would take what the two classes share, and fill the rest with random weights.
        if stated.get("_class_name") != CLASS_NAME:
            raise AutoencoderError(
                f"{hub_id_or_folder}{at} is of class {stated.get('_class_name')}, expected {CLASS_NAME}; "
                "name another model, or the subfolder that holds the VAE"
            )
        return AutoencoderKL.from_pretrained(
            hub_id_or_folder,
            **place,
            torch_dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            low_cpu_mem_usage=False,
        )
    except OSError as error:
        raise AutoencoderError(
            f"cannot load the VAE {hub_id_or_folder}{at} ({str(error).splitlines()[0]}); expected a "
            "model of the hub or a folder written by save_pretrained, with safetensors weights"
        ) from error
