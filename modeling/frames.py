"""Checks and conversions of uint8 RGB frames that all autoencoders share."""

import torch
from torch import Tensor

from modeling.errors import AutoencoderError

PIXEL_MAX = 255.0


def psnr(frames: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 tensors; infinite where they are equal."""
    error = (frames.double() - other.double()).square().mean()
    return float(10 * torch.log10(PIXEL_MAX**2 / error))


def check_frames(frames_BFHWC: Tensor, downsampling: int) -> None:
    shape = tuple(frames_BFHWC.shape)
    if frames_BFHWC.dtype != torch.uint8 or len(shape) != 5 or shape[-1] != 3:
        raise AutoencoderError(
            f"expected uint8 frames (B, F, H, W, 3), found {frames_BFHWC.dtype} {shape}"
        )
    if shape[2] % downsampling or shape[3] % downsampling:
        raise AutoencoderError(
            f"frames of {shape[2]}x{shape[3]} px do not divide by {downsampling}; crop or resize them"
        )


def check_latents(latents_BCFHW: Tensor, channels: int) -> None:
    shape = tuple(latents_BCFHW.shape)
    if len(shape) != 5 or shape[1] != channels:
        raise AutoencoderError(f"expected latents (B, {channels}, F, H, W), found {shape}")


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 to -1..1."""
    return pixels.float() / (PIXEL_MAX / 2) - 1


def to_uint8(unit: Tensor) -> Tensor:
    return ((unit + 1) * (PIXEL_MAX / 2)).round().clamp(0, PIXEL_MAX).to(torch.uint8)
