"""What a person reads at the end of a command that trains or generates."""

import torch
from rich.console import Console
from rich.table import Table

from modeling.config import STIVConfig
from modeling.flops import ClipShape, forward_flops, token_grid
from modeling.stiv import STIV
from orchestration.curation_summary import short
from training.config import LATENT_DOWNSAMPLING
from training.encoding import EncodeResult
from training.generate import GenerateResult
from training.run_directory import TrainResult


def print_training(console: Console, result: TrainResult) -> None:
    lines = [f"run: {short(result.run_dir)}"]
    lines += [
        f"  {stage.stage:<6} {stage.num_steps:5d} steps in {stage.seconds:5.1f} s, "
        f"loss {stage.first_loss:.4f} -> {stage.last_loss:.4f} (mean of first and last tenth)"
        for stage in result.stages
    ]
    console.print("\n".join(lines), highlight=False, markup=False)


def print_generated(console: Console, result: GenerateResult) -> None:
    lines = [f"frames: {short(result.contact_sheet)}"]
    if result.video != result.contact_sheet:
        lines.insert(0, f"video: {short(result.video)}")
    if result.given_psnr_db is not None:
        lines.append(
            f"given frames against what was given, both through the autoencoder: {result.given_psnr_db:.1f} dB"
        )
    console.print("\n".join(lines), highlight=False, markup=False)


def print_model(
    console: Console, config: STIVConfig, *, num_text_tokens: int, mask_ratio: float
) -> None:
    """Sizes are in pixels at the autoencoder factor of 8; operations are those of `modeling.flops`."""
    with torch.device("meta"):
        network = STIV(config)
    per_block = 20 if config.temporal_attention else 16
    formula = (6 + per_block * config.depth) * config.hidden_size**2
    blocks = network.num_block_parameters
    lines = [
        f"parameters: {network.num_parameters:,}",
        f"of them in the {config.depth} main blocks and their modulation: {blocks:,}; "
        f"(6 + {per_block} depth) hidden_size^2 is {formula:,} ({blocks / formula - 1:+.2%})",
    ]
    console.print("\n".join(lines), highlight=False)
    table = Table(
        "px",
        "frames",
        "tokens",
        "forward",
        f"tokens, {mask_ratio:.0%} masked",
        "forward",
        "train step",
    )
    for column in table.columns:
        column.justify = "right"
    for size_px in (256, 512):
        for num_frames in (1, 20, 40):
            side = size_px // LATENT_DOWNSAMPLING
            shape = ClipShape(num_frames, side, side, num_text_tokens)
            whole, masked = token_grid(config, shape), token_grid(config, shape, mask_ratio)
            of_whole = forward_flops(config, shape, whole)
            of_masked = forward_flops(config, shape, masked)
            table.add_row(
                f"{size_px}x{size_px}",
                f"{num_frames}",
                f"{whole.num_represented:,}",
                f"{of_whole.total / 1e12:.2f}",
                f"{masked.num_processed:,}",
                f"{of_masked.total / 1e12:.2f}",
                f"{of_masked.train / 1e12:.2f}",
            )
    console.print(table, "operations in TFLOP a clip; a training step is forward and backward")


def print_encoded(console: Console, result: EncodeResult) -> None:
    lines = [
        f"latents: {short(result.out)}",
        f"clips: {result.num_encoded} encoded + {result.num_failed} failed + "
        f"{result.num_without_caption} without caption",
        f"shards: {result.num_shards} with {result.num_bytes / 2**20:.1f} MiB, "
        f"{result.num_shards_written} of them written now in {result.seconds:.0f} s",
    ]
    lines += [f"failed: {failure}" for failure in result.failures]
    console.print("\n".join(lines), highlight=False, markup=False)
