"""Plain settings of the modules that need torch, for those that only describe a run: nothing here imports torch."""

from typing import Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field

LATENT_DOWNSAMPLING = 8
"""Pixels per latent position along height and width, for every supported autoencoder."""

NUM_RESIDUAL_BLOCKS = 4
"""Of the larger projector of given images (STIV table 3)."""

NullImage = Literal["noised", "zeros"]

GivenFrames = Literal["none", "first", "first_four", "every_second", "first_and_last"]
"""Which latent frames of a clip are given (STIV sections 2.3.1 and 5): to be animated, continued, or filled up."""

TimestepDistribution = Literal["logit_normal", "uniform"]

RecomputePolicy = Literal["none", "selective", "keep_self_attention", "full"]
"""From the least work to the least memory. `none` keeps all activations; `selective` keeps what matrix products and
attention give, and computes norms, activations and the like again; `keep_self_attention` keeps the input of each block
and what spatial and temporal attention give, as STIV does (section 2.2); `full` keeps the input of each block."""


class FrozenModel(BaseModel):
    """Configuration: plain values, checked when made. The docstrings of its fields are their descriptions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class ConvSettings(FrozenModel):
    """Size and fit of a ConvAutoencoder."""

    width: int = Field(default=64, ge=8, le=1024)
    """Channels of the layers between pixels and latents."""
    num_decoder_blocks: int = Field(default=4, ge=1, le=32)
    num_steps: int = Field(default=1500, ge=1)
    """A number of steps and not of seconds, so that a fit can be repeated."""
    batch_size: int = Field(default=8, ge=1)
    crop_px: int = Field(default=48, ge=LATENT_DOWNSAMPLING, multiple_of=LATENT_DOWNSAMPLING)
    """Side of the random crops that are fitted; at most the shorter side of the frames."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """The highest, after the warm-up; it falls to zero along a cosine."""


class KLSettings(FrozenModel):
    """How a KLAutoencoder is loaded and run."""

    subfolder: str | None = None
    """Where the VAE lies in a repository or folder that holds a whole pipeline: `vae`."""
    revision: str | None = None
    """Branch, tag or commit of the hub; ignored for a folder."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights and activations; latents are float32 outside."""
    frames_at_once: int = Field(default=1, ge=1)
    """How many frames go through the VAE together. With 1 the batch is sliced frame by frame: the least
    memory, and a frame never depends on what is beside it."""
    tile_px: int | None = Field(default=None, ge=32)
    """Frames with a longer side are cut into overlapping tiles of this side, which are encoded or decoded
    one by one and blended: bounded memory, but not the same numbers. None takes frames whole."""


def given_positions(which: GivenFrames, num_frames: int) -> tuple[int, ...]:
    """The latent frames of a clip that are given, in order.

    Raises:
        ValueError: no frame would be left to predict.
    """
    match which:
        case "none":
            given: tuple[int, ...] = ()
        case "first":
            given = (0,)
        case "first_four":
            given = tuple(range(min(4, num_frames)))
        case "every_second":
            given = tuple(range(0, num_frames, 2))
        case "first_and_last":
            given = tuple(sorted({0, num_frames - 1}))
        case _:
            assert_never(which)
    if len(given) >= num_frames:
        raise ValueError(f"{which!r} of {num_frames} latent frames leaves none to predict")
    return given
