"""The STIV diffusion transformer (arXiv 2412.07730, section 2)."""

import torch
from torch import Tensor, nn
from torch.nn import Parameter, init

from modeling.blocks import BlockInputs, FinalLayer, SharedModulation, STIVBlock
from modeling.conditioning import Conditions, replace_frames
from modeling.config import STIVConfig
from modeling.embeddings import (
    SingletonCondition,
    TextProjection,
    grid_positions,
    pad_frames,
    patchify,
    unpatchify,
)
from modeling.masking import unmask
from modeling.rope import spatial_rotary, temporal_rotary

EMBEDDING_STD = 0.02


class STIV(nn.Module):
    """Predicts the velocity of noised latents, given text and any latent frames already known.

    An image is a clip of one latent frame. A frame count that the temporal patch does not divide is
    filled up by repeating the last frame, and the prediction is cut back.

    The seed alone decides the initial weights. On the meta device they stay undefined until
    `initialize_weights` or a state dict fills them.
    """

    def __init__(self, config: STIVConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        patch_volume = config.temporal_patch * config.spatial_patch**2
        self.patch_embedding = nn.Linear(patch_volume * config.latent_channels, config.hidden_size)
        self.text_projection = TextProjection(config)
        self.singleton_condition = SingletonCondition(config)
        self.modulation = SharedModulation(config.hidden_size)
        self.blocks = nn.ModuleList(STIVBlock(config) for _ in range(config.depth))
        self.mask_token_D = Parameter(torch.empty(config.hidden_size))
        self.unmasked_blocks = nn.ModuleList(
            STIVBlock(config) for _ in range(config.num_unmasked_blocks)
        )
        self.final_layer = FinalLayer(config)
        device = self.mask_token_D.device
        if device.type != "meta":
            self.initialize_weights(torch.Generator(device).manual_seed(seed))

    def forward(
        self,
        x_t_BCFHW: Tensor,
        t_B: Tensor,
        conditions: Conditions,
        *,
        keep_S: Tensor | None = None,
    ) -> Tensor:
        """The velocity, in the shape of `x_t_BCFHW`.

        `keep_S` holds the spatial positions the main blocks see (`masking.draw_kept_positions`), None
        for all. Given frames are put in here; their own prediction means nothing and carries no loss.

        Raises:
            ValueError: the spatial patch does not divide height or width.
        """
        rows, columns = self._token_grid(x_t_BCFHW)
        temporal_patch, spatial_patch = self.config.temporal_patch, self.config.spatial_patch

        x_BCFHW = pad_frames(replace_frames(x_t_BCFHW, conditions), temporal_patch)
        position_SD = self._positions(rows, columns)
        x_BTSP = patchify(x_BCFHW, temporal_patch, spatial_patch)
        x_BTSD = self.patch_embedding(x_BTSP) + position_SD

        condition_BD = self.singleton_condition(t_B, conditions)
        inputs = self._block_inputs(condition_BD, conditions, x_BTSD.shape[1], rows, columns)

        if keep_S is None:
            for block in self.blocks:
                x_BTSD = block(x_BTSD, inputs)
        else:
            kept_BTKD, kept_inputs = x_BTSD[:, :, keep_S], inputs.at(keep_S)
            for block in self.blocks:
                kept_BTKD = block(kept_BTKD, kept_inputs)
            x_BTSD = unmask(kept_BTKD, keep_S, self.mask_token_D + position_SD)
        for block in self.unmasked_blocks:
            x_BTSD = block(x_BTSD, inputs)

        x_BTSP = self.final_layer(x_BTSD, condition_BD)
        velocity_BCFHW = unpatchify(x_BTSP, rows, temporal_patch, spatial_patch)
        return velocity_BCFHW[:, :, : x_t_BCFHW.shape[2]]

    @torch.no_grad()
    def initialize_weights(self, generator: torch.Generator) -> None:
        """Set every parameter. The output is then exactly zero, and every block the identity.

        The generator must be on the device of the parameters.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight, generator=generator)
                init.zeros_(module.bias)
            elif isinstance(module, nn.RMSNorm):
                init.ones_(module.weight)
        init.normal_(self.mask_token_D, std=EMBEDDING_STD, generator=generator)
        for block in [*self.blocks, *self.unmasked_blocks]:
            assert isinstance(block, STIVBlock)
            _zero(block.cross_attention.output)
            if block.temporal_attention is not None:
                init.zeros_(block.temporal_attention.gate_D)
        for linear in (
            self.modulation.linear,
            self.final_layer.modulation,
            self.final_layer.linear,
        ):
            _zero(linear)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_block_parameters(self) -> int:
        """Parameters of the `depth` main blocks and of the shared modulation.

        These are what the published sizes and the formula (6 + 20 depth) hidden_size^2 describe. Not
        counted: embeddings, final layer, mask token and the blocks after unmasking.
        """
        counted = [*self.blocks.parameters(), *self.modulation.parameters()]
        return sum(parameter.numel() for parameter in counted)

    def _token_grid(self, x_t_BCFHW: Tensor) -> tuple[int, int]:
        height, width = x_t_BCFHW.shape[-2:]
        spatial_patch = self.config.spatial_patch
        if height % spatial_patch or width % spatial_patch:
            raise ValueError(
                f"latents of {height}x{width} do not divide into patches of {spatial_patch}; "
                "choose a frame size that is a multiple of the patch times the autoencoder's downsampling"
            )
        return height // spatial_patch, width // spatial_patch

    def _positions(self, rows: int, columns: int) -> Tensor:
        width, device = self.config.hidden_size, self.mask_token_D.device
        if not self.config.absolute_positions:
            return torch.zeros(rows * columns, width, device=device, dtype=self.mask_token_D.dtype)
        return grid_positions(rows, columns, width, device).to(self.mask_token_D.dtype)

    def _block_inputs(
        self,
        condition_BD: Tensor,
        conditions: Conditions,
        num_temporal: int,
        rows: int,
        columns: int,
    ) -> BlockInputs:
        spatial_modulation, feed_forward_modulation = self.modulation(condition_BD)
        head_width, device = self.config.head_width, condition_BD.device
        return BlockInputs(
            spatial_modulation=spatial_modulation,
            feed_forward_modulation=feed_forward_modulation,
            text_BLD=self.text_projection(conditions.text.tokens_BLD),
            text_mask_BL=conditions.text.mask_BL,
            spatial_rotary=spatial_rotary(rows, columns, head_width, device),
            temporal_rotary=temporal_rotary(num_temporal, head_width, device),
        )


def _zero(linear: nn.Linear) -> None:
    init.zeros_(linear.weight)
    init.zeros_(linear.bias)
