"""Classifier-free guidance over text and image (STIV sections 2.3.2 and 3.4.2, appendix A).

"Null" velocities are predicted without a condition. Scale 1 gives the conditional velocity back.
"""

from torch import Tensor, linalg


def guide_jointly(null: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Joint image-text guidance (JIT-CFG): the null pass has neither text nor image."""
    return null + guidance_scale * (conditional - null)


def guide_text_only(image_only: Tensor, conditional: Tensor, text_scale: float) -> Tensor:
    """Guide by the text alone: both passes know the image."""
    return image_only + text_scale * (conditional - image_only)


def guide_separately(
    null: Tensor, image_only: Tensor, conditional: Tensor, *, image_scale: float, text_scale: float
) -> Tensor:
    """Separate image and text guidance (SIT-CFG), at the cost of a third pass."""
    return null + image_scale * (image_only - null) + text_scale * (conditional - image_only)


def renormalize_guidance(
    guided_BCFHW: Tensor, conditional_BCFHW: Tensor, loss_mask_BF: Tensor
) -> Tensor:
    """Scale the guided velocity to the norm of the conditional one (CFG-renorm).

    The paper gives no axes; the norm is taken per sample over everything that is generated. Frames
    whose `loss_mask_BF` is zero are given: their velocity is meaningless and does not count.
    """
    mask = loss_mask_BF[:, None, :, None, None].to(guided_BCFHW.dtype)
    wanted_B = linalg.vector_norm((conditional_BCFHW * mask).flatten(1), dim=1)
    found_B = linalg.vector_norm((guided_BCFHW * mask).flatten(1), dim=1)
    ratio_B = wanted_B / found_B.clamp_min(1e-12)
    return guided_BCFHW * ratio_B.view(-1, 1, 1, 1, 1)
