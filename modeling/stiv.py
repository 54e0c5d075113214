"""The STIV diffusion transformer (arXiv 2412.07730, section 2)."""

import torch
from torch import Tensor, nn
from torch.nn import Parameter, init

from modeling.blocks import BlockInputs, FinalLayer, STIVBlock
from modeling.conditioning import Conditions, replace_frames
from modeling.config import STIVConfig
from modeling.embeddings import (
    AbsolutePositions,
    SingletonCondition,
    TextProjection,
    pad_frames,
    patchify,
    unpatchify,
)
from modeling.image_tokens import ImageProjector
from modeling.masking import KeptPositions, unmask
from modeling.modulation import AdaLN, ModulationOffsets
from modeling.recompute import run_block
from modeling.rope import spatial_rotary, temporal_rotary
from modeling.settings import RecomputePolicy

EMBEDDING_STD = 0.02


class STIV(nn.Module):
    """Predicts the velocity of noised latents, given text and any latent frames already known.

    An image is a clip of one latent frame. A frame count that the temporal patch does not divide is
    filled up by repeating the last frame, and the prediction is cut back.

    The seed alone decides the initial weights. On the meta device they stay undefined until
    `initialize_weights` or a state dict fills them.
    """

    def __init__(
        self, config: STIVConfig, *, seed: int = 0, recompute: RecomputePolicy = "none"
    ) -> None:
        super().__init__()
        self.config = config
        self.recompute: RecomputePolicy = recompute
        patch_volume = config.temporal_patch * config.spatial_patch**2
        self.patch_embedding = nn.Linear(patch_volume * config.latent_channels, config.hidden_size)
        self.positions = None if config.absolute_positions == "none" else AbsolutePositions(config)
        self.text_projection = TextProjection(config)
        self.image_projector = None if config.image_attention == "none" else ImageProjector(config)
        self.singleton_condition = SingletonCondition(config)
        self.modulation = None if config.modulation == "per_block" else AdaLN(config)
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
        kept: KeptPositions | None = None,
    ) -> Tensor:
        """The prediction (`config.contract`), in the shape of `x_t_BCFHW`.

        `kept` are the positions that the main blocks see (`masking.draw_kept_positions`), None for all. Given
        frames are put in here, unless the contract says otherwise; their own prediction carries no loss.

        Raises:
            ValueError: the spatial patch does not divide height or width.
        """
        rows, columns = self._token_grid(x_t_BCFHW)
        temporal_patch, spatial_patch = self.config.temporal_patch, self.config.spatial_patch

        if self.config.contract.frame_replacement:
            x_t_BCFHW = replace_frames(x_t_BCFHW, conditions)
        x_BTSP = patchify(pad_frames(x_t_BCFHW, temporal_patch), temporal_patch, spatial_patch)
        position_TSD = self._positions(x_BTSP.shape[1], rows, columns)
        x_BTSD = self.patch_embedding(x_BTSP) + position_TSD

        condition_BD = self.singleton_condition(t_B, conditions)
        inputs = self._block_inputs(condition_BD, conditions, x_BTSD.shape[1], rows, columns)

        if kept is None:
            for block in self.blocks:
                x_BTSD = run_block(block, x_BTSD, inputs, self.recompute)
        else:
            kept_BTKD = kept.of(x_BTSD)
            kept_inputs = inputs.at(kept.spatial_S, kept.temporal_T)
            for block in self.blocks:
                kept_BTKD = run_block(block, kept_BTKD, kept_inputs, self.recompute)
            blank_TSD = (self.mask_token_D + position_TSD).expand(x_BTSD.shape[1:])
            x_BTSD = unmask(kept_BTKD, kept, blank_TSD)
        for block in self.unmasked_blocks:
            x_BTSD = run_block(block, x_BTSD, inputs, self.recompute)

        x_BTSP = self.final_layer(x_BTSD, condition_BD)
        velocity_BCFHW = unpatchify(x_BTSP, rows, temporal_patch, spatial_patch)
        return velocity_BCFHW[:, :, : x_t_BCFHW.shape[2]]

    @torch.no_grad()
    def initialize_weights(self, generator: torch.Generator) -> None:
        """Set every parameter. The output is then exactly zero, and every block the identity.

        The generator must be on the device of the parameters.
        """
        for module in self.modules():
            _draw(module, generator)
        init.normal_(self.mask_token_D, std=EMBEDDING_STD, generator=generator)
        for block in [*self.blocks, *self.unmasked_blocks]:
            assert isinstance(block, STIVBlock)
            _start_as_identity(block)
        for linear in (self.final_layer.modulation, self.final_layer.linear):
            _zero(linear)
        if self.modulation is not None:
            _zero_modulation(self.modulation)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_block_parameters(self) -> int:
        """Parameters of the `depth` main blocks and of the shared modulation.

        These are what the published sizes and the formula (6 + 20 depth) hidden_size^2 describe. Not
        counted: embeddings, final layer, mask token and the blocks after unmasking.
        """
        modules = [self.blocks] if self.modulation is None else [self.blocks, self.modulation]
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    def _token_grid(self, x_t_BCFHW: Tensor) -> tuple[int, int]:
        height, width = x_t_BCFHW.shape[-2:]
        spatial_patch = self.config.spatial_patch
        if height % spatial_patch or width % spatial_patch:
            raise ValueError(
                f"latents of {height}x{width} do not divide into patches of {spatial_patch}; "
                "choose a frame size that is a multiple of the patch times the autoencoder's downsampling"
            )
        return height // spatial_patch, width // spatial_patch

    def _positions(self, frames: int, rows: int, columns: int) -> Tensor:
        """(T or 1, S, D)"""
        token_D = self.mask_token_D
        if self.positions is None:
            shape = (1, rows * columns, self.config.hidden_size)
            return torch.zeros(shape, device=token_D.device, dtype=token_D.dtype)
        return self.positions(frames, rows, columns, token_D.device).to(token_D.dtype)

    def _block_inputs(
        self,
        condition_BD: Tensor,
        conditions: Conditions,
        num_temporal: int,
        rows: int,
        columns: int,
    ) -> BlockInputs:
        head_width, device = self.config.head_width, condition_BD.device
        frames_trained, *trained = self.config.rotary_grid or (None,)
        has_rotary = self.config.rotary_positions
        return BlockInputs(
            condition_BD=condition_BD,
            modulation=None if self.modulation is None else self.modulation(condition_BD),
            text_BLD=self.text_projection(conditions.text.tokens_BLD),
            text_mask_BL=conditions.text.mask_BL,
            image=None if self.image_projector is None else self.image_projector(conditions),
            spatial_rotary=spatial_rotary(
                rows, columns, head_width, device, (trained[0], trained[1]) if trained else None
            )
            if has_rotary
            else None,
            temporal_rotary=temporal_rotary(num_temporal, head_width, device, frames_trained)
            if has_rotary
            else None,
        )


def _draw(module: nn.Module, generator: torch.Generator) -> None:
    match module:
        case nn.Linear():
            init.xavier_uniform_(module.weight, generator=generator)
            init.zeros_(module.bias)
        case nn.Conv2d():
            init.xavier_uniform_(module.weight, generator=generator)
            assert module.bias is not None, "the convolutions of `image_tokens` have one"
            init.zeros_(module.bias)
        case nn.RMSNorm():
            init.ones_(module.weight)
        case nn.GroupNorm():
            init.ones_(module.weight)
            init.zeros_(module.bias)
        case ModulationOffsets():
            for parameter in module.parameters():
                init.zeros_(parameter)
        case AbsolutePositions():
            for parameter in module.parameters():
                init.normal_(parameter, std=EMBEDDING_STD, generator=generator)
        case ImageProjector():
            init.normal_(module.absent_D, std=EMBEDDING_STD, generator=generator)
        case _:
            pass


def _start_as_identity(block: STIVBlock) -> None:
    if block.cross_gate_D is None:
        _zero(block.cross_attention.output)
    else:
        # The norm behind it makes unit size of any small output, so only a gate can start from zero.
        init.zeros_(block.cross_gate_D)
    if block.image_attention is not None:
        _zero(block.image_attention.output)
    if block.temporal_attention is not None and block.temporal_attention.gate_D is not None:
        init.zeros_(block.temporal_attention.gate_D)
    if block.modulation is not None:
        _zero_modulation(block.modulation)


def _zero_modulation(modulation: AdaLN) -> None:
    _zero(modulation.linear)
    if modulation.temporal_attention is not None:
        _zero(modulation.temporal_attention)


def _zero(linear: nn.Linear) -> None:
    init.zeros_(linear.weight)
    init.zeros_(linear.bias)
