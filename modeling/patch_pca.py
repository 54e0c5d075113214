"""A linear autoencoder of 8x8 patches, fitted in the project."""

from pathlib import Path

import torch
from torch import Tensor

from modeling.errors import AutoencoderError
from modeling.frames import check_frames, check_latents, to_uint8, to_unit
from modeling.weights_file import check_shapes, load_weights, save_weights


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
        check_frames(frames_NHWC[None], cls.downsampling)
        patches_XP = _to_patches(frames_NHWC, cls.downsampling)
        if len(patches_XP) > max_patches:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(patches_XP), generator=generator)[:max_patches]
            patches_XP = patches_XP[chosen.to(patches_XP.device)]
        pixels_XP = to_unit(patches_XP).double()
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
        check_frames(frames_BFHWC, self.downsampling)
        batch, num_frames, height, width, _ = frames_BFHWC.shape
        patches_XP = to_unit(_to_patches(frames_BFHWC.flatten(0, 1), self.downsampling))
        device = patches_XP.device
        centred_XP = patches_XP - self._mean_P.to(device)
        latents_XC = centred_XP @ (self._components_CP * self._scale_C[:, None]).T.to(device)
        grid = (height // self.downsampling, width // self.downsampling)
        return latents_XC.view(batch, num_frames, *grid, -1).permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        check_latents(latents_BCFHW, self.latent_channels)
        batch, _, num_frames, rows, columns = latents_BCFHW.shape
        device, side = latents_BCFHW.device, self.downsampling
        latents_BFHWC = latents_BCFHW.float().permute(0, 2, 3, 4, 1)
        patches = latents_BFHWC @ (self._components_CP / self._scale_C[:, None]).to(device)
        patches = (patches + self._mean_P.to(device)).unflatten(-1, (side, side, 3))
        frames = patches.permute(0, 1, 2, 4, 3, 5, 6)
        return to_uint8(frames.reshape(batch, num_frames, rows * side, columns * side, 3))

    def kernels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean patch (3, 8, 8), and encoding and decoding kernels (C, 3, 8, 8) of a convolution."""
        side = self.downsampling
        shape = (-1, side, side, 3)
        rows_CP = torch.stack(
            [self._components_CP * s[:, None] for s in (self._scale_C, 1 / self._scale_C)]
        )
        encoding, decoding = (rows.view(shape).permute(0, 3, 1, 2).contiguous() for rows in rows_CP)
        return self._mean_P.view(side, side, 3).permute(2, 0, 1).contiguous(), encoding, decoding

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, byte-identical for identical weights, by a rename."""
        tensors = {
            "mean": self._mean_P,
            "components": self._components_CP,
            "scale": self._scale_C,
        }
        save_weights(tensors, path, self.name)

    @classmethod
    def load(cls, path: Path) -> "PatchPCA":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            AutoencoderError: the file is not safetensors, or holds something else.
        """
        tensors, _ = load_weights(path, cls.name)
        channels = len(tensors["scale"]) if "scale" in tensors else 0
        patch = cls.downsampling**2 * 3
        expected = {"mean": (patch,), "components": (channels, patch), "scale": (channels,)}
        check_shapes(tensors, expected, path)
        return cls(tensors["mean"], tensors["components"], tensors["scale"])


def _to_patches(frames_NHWC: Tensor, side: int) -> Tensor:
    count, height, width, channels = frames_NHWC.shape
    blocks = frames_NHWC.view(count, height // side, side, width // side, side, channels)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side * channels)


def _fix_signs(components_CP: Tensor) -> Tensor:
    """Make the largest entry of each component positive: an eigenvector's sign is arbitrary."""
    largest = components_CP.abs().argmax(dim=1, keepdim=True)
    return components_CP * components_CP.gather(1, largest).sign()
