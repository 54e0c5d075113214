"""What the network is told besides the noised latents: text, known frames, micro-conditions.

Frame replacement is STIV section 2.3.1, condition dropout its appendix B.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.settings import GivenFrames, NullImage, given_positions


def given_frames(which: GivenFrames, num_frames: int) -> Tensor:
    """Bool (F,), True at the given latent frames.

    Raises:
        ValueError: no frame would be left to predict.
    """
    given_F = torch.zeros(num_frames, dtype=torch.bool)
    given_F[list(given_positions(which, num_frames))] = True
    return given_F


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Frozen text features of a batch. Every row has at least one real token."""

    tokens_BLD: Tensor
    mask_BL: Tensor
    """Bool, True at a real token."""
    pooled_BD: Tensor

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            self.tokens_BLD.to(device), self.mask_BL.to(device), self.pooled_BD.to(device)
        )

    def expand(self, batch: int) -> Self:
        """One text repeated over a batch, without copying."""
        return type(self)(
            self.tokens_BLD.expand(batch, -1, -1),
            self.mask_BL.expand(batch, -1),
            self.pooled_BD.expand(batch, -1),
        )


@dataclass(frozen=True, slots=True)
class MicroConditions:
    """Facts about how a clip was cut, as float tensors (STIV section 2.1, after SDXL)."""

    original_size_B2: Tensor
    """Height and width of the source in pixels."""
    crop_top_left_B2: Tensor
    """Row and column of the crop in pixels of the resized source."""
    sampling_stride_B: Tensor
    """Every n-th source frame was taken."""
    num_frames_B: Tensor
    """Frames of the clip, before any temporal patch."""

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            self.original_size_B2.to(device),
            self.crop_top_left_B2.to(device),
            self.sampling_stride_B.to(device),
            self.num_frames_B.to(device),
        )


@dataclass(frozen=True, slots=True)
class Conditions:
    """Everything the velocity of a batch depends on besides `x_t` and `t`."""

    text: TextFeatures
    micro: MicroConditions
    given_BF: Tensor
    """Bool, True where a latent frame is known: an image to animate, frames to continue."""
    given_latents_BCFHW: Tensor
    """Clean latents, read only where `given_BF` is True. Same shape as `x_t`."""

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            self.text.to(device),
            self.micro.to(device),
            self.given_BF.to(device),
            self.given_latents_BCFHW.to(device),
        )


def replace_frames(x_t_BCFHW: Tensor, conditions: Conditions) -> Tensor:
    """Put the clean latents in place of the noised ones, bit for bit, where a frame is given."""
    given = conditions.given_BF[:, None, :, None, None]
    return torch.where(given, conditions.given_latents_BCFHW.to(x_t_BCFHW.dtype), x_t_BCFHW)


def loss_mask(given_BF: Tensor) -> Tensor:
    """1.0 where a latent frame is to be predicted, 0.0 where it is given.

    Per latent frame and not per token: a given frame shares its token with the next frame.
    """
    return (~given_BF).float()


def draw_dropout(batch: int, prob: float, generator: torch.Generator) -> Tensor:
    """Bool per sample, True with probability `prob`, on the generator's device."""
    return torch.rand(batch, generator=generator, device=generator.device) < prob


def drop_text(conditions: Conditions, null_text: TextFeatures, drop_B: Tensor) -> Conditions:
    """Give the rows of `drop_B` the null text (the encoded empty string, a batch of one)."""
    text, null = _pad_alike([conditions.text, null_text.expand(drop_B.shape[0])])
    dropped = TextFeatures(
        tokens_BLD=torch.where(drop_B[:, None, None], null.tokens_BLD, text.tokens_BLD),
        mask_BL=torch.where(drop_B[:, None], null.mask_BL, text.mask_BL),
        pooled_BD=torch.where(drop_B[:, None], null.pooled_BD, text.pooled_BD),
    )
    return replace(conditions, text=dropped)


def drop_image(
    conditions: Conditions, drop_B: Tensor, null_image: NullImage = "noised"
) -> Conditions:
    """Take the given frames from the rows of `drop_B`.

    `noised` leaves them noised, as in text-to-video (STIV section 2.3.1); `zeros` gives zero latents in their
    place (appendix J.3).
    """
    if null_image == "noised":
        return replace(conditions, given_BF=conditions.given_BF & ~drop_B[:, None])
    kept = ~drop_B.view(-1, 1, 1, 1, 1)
    return replace(conditions, given_latents_BCFHW=conditions.given_latents_BCFHW * kept)


def null_conditions(
    conditions: Conditions, null_text: TextFeatures, null_image: NullImage = "noised"
) -> Conditions:
    """No text and no image; micro-conditions stay, since they describe the clip asked for."""
    return without_image(with_null_text(conditions, null_text), null_image)


def with_null_text(conditions: Conditions, null_text: TextFeatures) -> Conditions:
    return replace(conditions, text=null_text.expand(conditions.given_BF.shape[0]))


def without_image(conditions: Conditions, null_image: NullImage = "noised") -> Conditions:
    given_BF = conditions.given_BF
    return replace(
        conditions,
        given_BF=given_BF if null_image == "zeros" else torch.zeros_like(given_BF),
        given_latents_BCFHW=torch.zeros_like(conditions.given_latents_BCFHW),
    )


def concatenate_text(texts: list[TextFeatures]) -> TextFeatures:
    """Stack batches of text; shorter ones are padded with tokens that the mask hides."""
    padded = _pad_alike(texts)
    return TextFeatures(
        tokens_BLD=torch.cat([text.tokens_BLD for text in padded]),
        mask_BL=torch.cat([text.mask_BL for text in padded]),
        pooled_BD=torch.cat([text.pooled_BD for text in padded]),
    )


def concatenate_conditions(parts: list[Conditions]) -> Conditions:
    """Stack the conditions of several passes into one batch."""
    micro = MicroConditions(
        original_size_B2=torch.cat([part.micro.original_size_B2 for part in parts]),
        crop_top_left_B2=torch.cat([part.micro.crop_top_left_B2 for part in parts]),
        sampling_stride_B=torch.cat([part.micro.sampling_stride_B for part in parts]),
        num_frames_B=torch.cat([part.micro.num_frames_B for part in parts]),
    )
    return Conditions(
        text=concatenate_text([part.text for part in parts]),
        micro=micro,
        given_BF=torch.cat([part.given_BF for part in parts]),
        given_latents_BCFHW=torch.cat([part.given_latents_BCFHW for part in parts]),
    )


def _pad_alike(texts: list[TextFeatures]) -> list[TextFeatures]:
    length = max(text.mask_BL.shape[1] for text in texts)
    return [_pad(text, length) for text in texts]


def _pad(text: TextFeatures, length: int) -> TextFeatures:
    missing = length - text.mask_BL.shape[1]
    if missing == 0:
        return text
    return TextFeatures(
        tokens_BLD=F.pad(text.tokens_BLD, (0, 0, 0, missing)),
        mask_BL=F.pad(text.mask_BL, (0, missing), value=False),
        pooled_BD=text.pooled_BD,
    )
