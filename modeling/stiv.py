"""The STIV diffusion transformer (arXiv 2412.07730, section 2)."""

from collections.abc import Iterator

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
from modeling.modulation import AdaLN
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

    def initialize_weights(self, generator: torch.Generator) -> None:
        """Set every parameter. The output is then exactly zero, and every block the identity.

        The generator must be on the device of the parameters.
        """
        with torch.no_grad():
            for parameter, value in self.initial_weights(generator):
                parameter.copy_(value)

    def initial_weights(self, generator: torch.Generator) -> Iterator[tuple[Parameter, Tensor]]:
        """Every parameter with the value that it starts from, whole, on the device of the generator.

        One at a time, and of the parameters only the shape is read: they may be on the meta device, or divided over
        workers.
        """
        zeros = {id(p) for linear in self._zero_layers() for p in linear.parameters()}
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter is not self.mask_token_D:
                    value = _empty(parameter, generator)
                    _draw(module, name, value, generator)
                    yield parameter, value.zero_() if id(parameter) in zeros else value
        value = _empty(self.mask_token_D, generator)
        yield self.mask_token_D, init.normal_(value, std=EMBEDDING_STD, generator=generator)

    def _zero_layers(self) -> Iterator[nn.Module]:
        """Those whose output is zero at first."""
        yield from (self.final_layer.modulation, self.final_layer.linear)
        if self.modulation is not None:
            yield self.modulation
        for block in [*self.blocks, *self.unmasked_blocks]:
            assert isinstance(block, STIVBlock)
            # The norm behind cross attention makes unit size of any small output: there a gate starts from zero.
            if block.cross_gate_D is None:
                yield block.cross_attention.output
            if block.image_attention is not None:
                yield block.image_attention.output
            if block.modulation is not None:
                yield block.modulation

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


def _empty(parameter: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)


def _draw(module: nn.Module, name: str, value: Tensor, generator: torch.Generator) -> None:
    """What the parameter `name` of a module starts from."""
    match module:
        case nn.Linear() | nn.Conv2d() if name == "weight":
            init.xavier_uniform_(value, generator=generator)
        case nn.RMSNorm() | nn.GroupNorm() if name == "weight":
            init.ones_(value)
        # The tables of learned positions, and the token of no image.
        case nn.ParameterDict() | ImageProjector():
            init.normal_(value, std=EMBEDDING_STD, generator=generator)
        # Biases, gates, and offsets of the modulation.
        case _:
            init.zeros_(value)
