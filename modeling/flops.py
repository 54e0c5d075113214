"""What a pass of the network costs, counted from its shapes.

A multiplication and an addition are two operations. Counted are all matrix products: projections, attention (4 s h
for each token forward, s the tokens it sees and h the width), feed-forward layers, embeddings and the final layer, with
cross-attention and the projections of text. Not counted: norms, activations and other work on single elements,
activations that are computed again, and tokens that masking drops. A training step is three forward passes: the
gradients of inputs and of weights cost one each.
"""

from dataclasses import dataclass, fields

from modeling.config import STIVConfig
from modeling.settings import NUM_RESIDUAL_BLOCKS


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Size of one sample in latents, and of its text."""

    num_latent_frames: int
    height: int
    width: int
    num_text_tokens: int
    num_given_frames: int = 0
    """Read by image attention only."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Tokens of one clip: those it has, and those that the main blocks see."""

    num_temporal: int
    num_spatial: int
    num_temporal_kept: int
    num_spatial_kept: int

    @property
    def num_represented(self) -> int:
        return self.num_temporal * self.num_spatial

    @property
    def num_processed(self) -> int:
        return self.num_temporal_kept * self.num_spatial_kept


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Operations of one forward pass over one clip, by part of the network."""

    self_attention_projections: int
    self_attention: int
    """Scores and weighted sums of spatial and temporal attention."""
    cross_attention: int
    feed_forward: int
    embeddings: int
    """Patches in and out, text, image and singleton condition, modulation."""

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def train(self) -> int:
        """Forward and backward."""
        return 3 * self.total


def token_grid(
    config: STIVConfig, shape: ClipShape, mask_ratio: float = 0.0, temporal_mask_ratio: float = 0.0
) -> TokenGrid:
    """The tokens of a clip; frames that do not fill a token are filled up, as in `STIV`."""
    num_temporal = -(-shape.num_latent_frames // config.temporal_patch)
    num_spatial = (shape.height // config.spatial_patch) * (shape.width // config.spatial_patch)
    return TokenGrid(
        num_temporal=num_temporal,
        num_spatial=num_spatial,
        num_temporal_kept=max(1, round(num_temporal * (1 - temporal_mask_ratio))),
        num_spatial_kept=max(1, round(num_spatial * (1 - mask_ratio))),
    )


def forward_flops(config: STIVConfig, shape: ClipShape, grid: TokenGrid) -> ForwardFlops:
    """Operations of one forward pass over one clip."""
    width, blocks = config.hidden_size, ForwardFlops(0, 0, 0, 0, 0)
    for num_blocks, num_temporal, num_spatial in (
        (config.depth, grid.num_temporal_kept, grid.num_spatial_kept),
        (config.num_unmasked_blocks, grid.num_temporal, grid.num_spatial),
    ):
        one = _block(config, shape, num_temporal, num_spatial)
        blocks = ForwardFlops(
            *(
                getattr(blocks, field.name) + num_blocks * getattr(one, field.name)
                for field in fields(blocks)
            )
        )
    patch = config.temporal_patch * config.spatial_patch**2 * config.latent_channels
    outside = 2 * (2 * grid.num_represented * patch * width)
    outside += _linear(shape.num_text_tokens, config.text_width, width)
    outside += _linear(shape.num_text_tokens, width, width)
    outside += _condition(config) + _linear(1, width, 2 * width) + _image(config, shape)
    if config.modulation != "per_block":
        outside += _linear(1, width, _num_modulations(config) * width)
    return ForwardFlops(
        blocks.self_attention_projections,
        blocks.self_attention,
        blocks.cross_attention,
        blocks.feed_forward,
        blocks.embeddings + outside,
    )


def _block(
    config: STIVConfig, shape: ClipShape, num_temporal: int, num_spatial: int
) -> ForwardFlops:
    width, num_tokens = config.hidden_size, num_temporal * num_spatial
    projections = _linear(num_tokens, width, 4 * width)
    attention = 4 * num_tokens * num_spatial * width
    if config.temporal_attention and num_temporal > 1:
        projections += _linear(num_tokens, width, 4 * width)
        attention += 4 * num_tokens * num_temporal * width
    cross = _cross(num_tokens, shape.num_text_tokens, width)
    if config.image_attention != "none":
        cross += _cross(num_tokens, _num_image_tokens(config, shape), width)
    inner = int(width * config.mlp_ratio)
    modulation = 0
    if config.modulation == "per_block":
        modulation = _linear(1, width, _num_modulations(config) * width)
    return ForwardFlops(
        self_attention_projections=projections,
        self_attention=attention,
        cross_attention=cross,
        feed_forward=2 * _linear(num_tokens, width, inner),
        embeddings=modulation,
    )


def _cross(num_tokens: int, num_others: int, width: int) -> int:
    queries = _linear(num_tokens, width, 2 * width)
    keys = _linear(num_others, width, 2 * width)
    return queries + keys + 4 * num_tokens * num_others * width


def _condition(config: STIVConfig) -> int:
    width = config.hidden_size
    scalars = [1, 2, 2, 1, 1] if config.micro_conditions else [1]
    mlps = sum(_linear(1, n * config.frequency_width + width, width) for n in scalars)
    return mlps + _linear(1, config.pooled_text_width, width)


def _image(config: STIVConfig, shape: ClipShape) -> int:
    if config.image_attention == "none" or shape.num_given_frames == 0:
        return 0
    width, patch_area = config.hidden_size, config.spatial_patch**2
    pixels = shape.num_given_frames * shape.height * shape.width
    num_tokens = pixels // patch_area
    if config.image_attention == "linear":
        return _linear(num_tokens, patch_area * config.latent_channels, width)
    convolutions = _linear(pixels, 9 * config.latent_channels, width)
    convolutions += 2 * NUM_RESIDUAL_BLOCKS * _linear(pixels, 9 * width, width)
    return convolutions + _linear(num_tokens, patch_area * width, width)


def _num_image_tokens(config: STIVConfig, shape: ClipShape) -> int:
    area = shape.height * shape.width // config.spatial_patch**2
    return 1 + shape.num_given_frames * area


def _num_modulations(config: STIVConfig) -> int:
    return 9 if config.temporal_attention and config.temporal_modulation else 6


def _linear(num_rows: int, width_in: int, width_out: int) -> int:
    return 2 * num_rows * width_in * width_out
