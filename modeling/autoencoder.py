"""Frozen autoencoders of single frames by name: two that are fitted in the project, and a hub VAE.

STIV encodes a video frame by frame with a frozen image VAE (section 2.1).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from modeling.conv_autoencoder import ConvAutoencoder
from modeling.kl_autoencoder import KLAutoencoder
from modeling.patch_pca import PatchPCA


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


AUTOENCODERS: dict[str, Callable[[str], Autoencoder]] = {
    "patch_pca": lambda place: PatchPCA.load(Path(place)),
    "conv": lambda place: ConvAutoencoder.load(Path(place)),
    "kl": KLAutoencoder,
}
"""Name in a config -> loader, given a file, a folder or a hub id."""
