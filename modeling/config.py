"""Architecture, guidance and sampler settings, and the named model sizes."""

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from modeling.settings import FrozenModel, NullImage


class Contract(FrozenModel):
    """What goes into a network and what comes out of it, as trained: sampling must read it the same way."""

    prediction: Literal["velocity", "noise"] = "velocity"
    """`velocity` is flow matching (STIV equations 1 and 2); `noise` is the baseline of table 2, epsilon prediction
    on the noise schedule of Stable Diffusion (`modeling.paths`)."""
    frame_replacement: bool = True
    """Given latent frames go in clean, in place of the noised ones (STIV section 2.3.1). Without it the network
    sees them noised like all others, and knows them through image attention only (table 3)."""
    null_image: NullImage = "noised"
    """What a dropped image leaves behind: its frames noised like those of text-to-video, or given as zero
    latents, as in the multi-view application (STIV appendix J.3)."""


class STIVConfig(FrozenModel):
    """The architecture of one network. No field has a default but the contract: presets fill them all.

    The ablations of the paper are fields here, or settings of a stage; `training.ablations` lists them by table.
    """

    hidden_size: PositiveInt
    depth: PositiveInt
    """Blocks that see the kept spatial positions only."""
    num_heads: PositiveInt
    mlp_ratio: PositiveFloat
    """Feed-forward width over `hidden_size`."""
    spatial_patch: PositiveInt
    """Side of a token, in latent pixels."""
    temporal_patch: PositiveInt
    """Length of a token, in latent frames."""
    latent_channels: PositiveInt
    text_width: PositiveInt
    """Width of the text encoder's token states."""
    pooled_text_width: PositiveInt
    num_unmasked_blocks: int = Field(ge=0)
    """Blocks after unmasking, on top of `depth` (STIV section 2.2 has 2)."""
    temporal_attention: bool
    """False builds the image model of STIV section 2.4: blocks without temporal attention."""
    causal_temporal: bool
    """A temporal position sees itself and earlier ones only. STIV adopts False (table 6a)."""
    temporal_modulation: bool
    """Scale, shift and gate for temporal attention too. STIV adopts False (table 6a)."""
    qk_norm: bool
    """RMS norm of queries and keys in all attentions (STIV section 2.2, table 2)."""
    sandwich_norm: bool
    """A stateless norm after each attention and feed-forward layer as well as before it (section 2.2, table 2)."""
    cross_attention_norm: bool
    """Sandwich text cross-attention too, with a learned gate from zero. The paper leaves this open; PixArt has no
    norm there."""
    condition_norm: bool
    """Norm each part of the singleton condition before the sum (STIV section 2.2, table 2)."""
    micro_conditions: bool
    """Add source size, crop, stride and frame count to the singleton condition (appendix D, table 2)."""
    modulation: Literal["shared", "shared_with_offsets", "per_block"]
    """One AdaLN for all blocks (STIV section 2.2), the same with a learned offset in each block as PixArt has it,
    or one in each block as DiT has it (table 2)."""
    rotary_positions: bool
    """Rotary positions in spatial and temporal attention (STIV section 2.1, table 2)."""
    rotary_grid: tuple[PositiveInt, PositiveInt, PositiveInt] | None
    """Temporal positions, rows and columns of tokens that the weights were first trained on. Where there are
    more, rotary positions are interpolated into this range (STIV section 2.4, table 6c); None extrapolates."""
    absolute_positions: Literal["none", "sinusoidal", "learned"]
    """Features of its place that are added to every token before the first block. Beside rotary positions,
    those of rows and columns only.

    STIV names rotary positions only, and rotary attention cannot place tokens of equal content: a small
    network must first learn to infer the layout from noise. On 8 smooth images, 400 steps of `tiny`
    with 4 blocks, the sinusoidal grid cut the loss at t=0 from 0.94 to 0.28 after 100 steps, and from 0.11 to
    0.06 at the end. XL, XXL and M keep to the paper.
    """
    image_attention: Literal["none", "linear", "resnet"]
    """Cross-attention to the given frames, through a linear projection of their patches or the larger one, a
    residual network (table 3). STIV adopts `none`: frame replacement alone."""
    frequency_width: PositiveInt
    """Width of the sinusoidal features of a scalar, before its MLP."""
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _check_divisibility(self) -> Self:
        if self.hidden_size % (4 * self.num_heads) != 0:
            raise ValueError(
                f"hidden_size {self.hidden_size} over num_heads {self.num_heads} must be a multiple "
                "of 4: rotary positions take two angles for rows and two for columns"
            )
        if self.frequency_width % 2 != 0:
            raise ValueError(
                f"frequency_width {self.frequency_width} must be even: cosines and sines"
            )
        return self

    @model_validator(mode="after")
    def _knows_places_and_images(self) -> Self:
        if not self.rotary_positions and self.absolute_positions == "none":
            raise ValueError(
                "rotary_positions is false and absolute_positions is 'none': without either the network "
                "cannot tell one place of a frame from another"
            )
        if self.image_attention == "none" and not self.contract.frame_replacement:
            raise ValueError(
                "contract.frame_replacement is false and image_attention is 'none': given frames would "
                "not reach the network; switch one of them on"
            )
        return self

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_heads


_SHARED: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "spatial_patch": 2,
    "temporal_patch": 2,
    "num_unmasked_blocks": 2,
    "temporal_attention": True,
    "causal_temporal": False,
    "temporal_modulation": False,
    "qk_norm": True,
    "sandwich_norm": True,
    "cross_attention_norm": False,
    "condition_norm": True,
    "micro_conditions": True,
    "modulation": "shared",
    "rotary_positions": True,
    "rotary_grid": None,
    "absolute_positions": "none",
    "image_attention": "none",
    "frequency_width": 256,
}

_OURS: dict[str, Any] = {**_SHARED, "absolute_positions": "sinusoidal", "frequency_width": 128}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {**_OURS, "hidden_size": 192, "depth": 6, "num_heads": 6},
    "small": {**_OURS, "hidden_size": 384, "depth": 12, "num_heads": 6},
    "XL": {**_SHARED, "hidden_size": 1152, "depth": 28, "num_heads": 18},
    "XXL": {**_SHARED, "hidden_size": 1536, "depth": 38, "num_heads": 24},
    "M": {**_SHARED, "hidden_size": 3072, "depth": 46, "num_heads": 48},
}
"""XL, XXL and M are STIV table 1; `tiny` and `small` are ours, for a laptop and a single GPU. Encoder widths come
from the caller."""


def preset(
    name: str, *, latent_channels: int, text_width: int, pooled_text_width: int, **changes: Any
) -> STIVConfig:
    """A named size with the widths of the chosen encoders; `changes` replace single fields.

    Raises:
        ValueError: no preset has this name, or a field is unknown or out of range.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    widths: dict[str, Any] = {
        "latent_channels": latent_channels,
        "text_width": text_width,
        "pooled_text_width": pooled_text_width,
    }
    return STIVConfig(**{**PRESETS[name], **widths, **changes})


def named_presets() -> dict[str, Callable[[], STIVConfig]]:
    """Every size with encoders of the widths that the paper uses: 8 latent channels, text of 1280 (appendix C, D)."""

    def factory(name: str) -> Callable[[], STIVConfig]:
        return lambda: preset(name, latent_channels=8, text_width=1280, pooled_text_width=1280)

    return {name: factory(name) for name in PRESETS}


class GuidanceConfig(FrozenModel):
    """How conditional and null velocities are combined at sampling time."""

    scheme: Literal["joint", "text", "separate", "none"] = "joint"
    """`joint` drops text and image together (JIT-CFG), `text` keeps the image in both passes,
    `separate` takes a third, image-only pass (SIT-CFG), `none` is the plain velocity."""
    text_scale: float = 7.5
    """Also the one scale of `joint`."""
    image_scale: float = 7.5
    """Read by `separate` only."""
    renormalize: bool = True
    """Scale the guided velocity back to the norm of the conditional one (CFG-renorm)."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Outside of these times the conditional prediction is taken as it is, which is one pass instead of two.
    Not in STIV; arXiv 2404.07724 shows that guidance helps in the middle."""

    @model_validator(mode="after")
    def _interval_is_within_the_path(self) -> Self:
        start, end = self.interval
        if not 0 <= start < end <= 1:
            raise ValueError(
                f"interval is {start} to {end}; expected two times with 0 <= start < end <= 1"
            )
        return self


class SamplerConfig(FrozenModel):
    """How the velocity is integrated from noise to data."""

    solver: Literal["euler", "heun"] = "euler"
    process: Literal["ode", "sde"] = "ode"
    """`ode` is deterministic once the noise is drawn; `sde` adds noise at every step and takes it out again."""
    num_sampling_steps: PositiveInt = 50
    """Intervals between t=0 and t=1. Heun evaluates the network twice in each."""
    diffusion_scale: float = Field(default=1.0, gt=0)
    """Strength of the noise of the SDE: its diffusion coefficient w(t) is this times 1 - t (`modeling.solvers`)."""
    timestep_shift: PositiveFloat = 1.0
    """Above 1, more of the steps are spent near the noise, as larger pictures need (`modeling.flow.shift_timesteps`)."""
