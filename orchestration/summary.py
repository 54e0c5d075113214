"""What a person reads at the end of a command."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from data_engine.config import FilterConfig
from data_engine.lineage import Lineage
from data_engine.report import RunReport, write_what_if
from data_engine.tables import DatasetPaths
from data_engine.throughput import read_throughput
from data_engine.what_if import what_if
from modeling.config import STIVConfig
from modeling.flops import ClipShape, forward_flops, token_grid
from modeling.stiv import STIV
from training.config import LATENT_DOWNSAMPLING
from training.encoding import EncodeResult
from training.generate import GenerateResult
from training.run_directory import TrainResult


def short(path: Path) -> Path:
    """The path as seen from here, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def print_report(console: Console, report: RunReport, dataset: Path) -> None:
    lines = [
        f"data set: {short(dataset)}",
        f"sources: {report.num_sources} read, {report.num_quarantined} quarantined, "
        f"{report.source_hours * 60:.1f} minutes, {report.num_shots} shots",
    ]
    lines += [f"  quarantined: {n} x {reason}" for reason, n in report.quarantined_by.items()]
    for name, left in report.funnel():
        lines.append(f"  {left:5d}  {name}")
    lines += [
        f"clips: {report.num_kept} kept + {report.num_rejected} rejected + {report.num_failed} failed "
        f"= {report.num_clips} cut",
        f"shards: {report.num_shards} with {report.num_sharded_clips} clips, "
        f"{report.kept_hours * 60:.1f} minutes",
    ]
    lines += [f"failed: {count} x {error}" for error, count in report.failed_by.items()]
    if stages := read_throughput(DatasetPaths(dataset)):
        took = ", ".join(f"{stage.name} {stage.seconds:.0f} s" for stage in stages)
        lines.append(f"stages, when last they had work to do: {took}")
    console.print("\n".join(lines), highlight=False, markup=False)


def print_what_if(
    console: Console, paths: DatasetPaths, now: FilterConfig, then: FilterConfig
) -> None:
    """A table of both choices, and a contact sheet of the clips that come and go."""
    found = what_if(paths, now, then)
    rows = [
        ("kept", found.now.num_kept, found.then.num_kept),
        ("minutes kept", found.now.kept_hours * 60, found.then.kept_hours * 60),
        ("not scored far enough", found.now.num_unknown, found.then.num_unknown),
    ]
    reasons = dict.fromkeys([*found.now.rejected_by, *found.then.rejected_by])
    for reason in reasons:
        counts = found.now.rejected_by.get(reason, 0), found.then.rejected_by.get(reason, 0)
        rows.append((reason.replace("_", " "), *counts))
    lines = [f"{'':22}{'now':>8}{'then':>8}"]
    lines += [
        f"{name:22}{_number(before):>8}{_number(after):>8}"
        for name, before, after in rows
        if before or after
    ]
    lines.append(f"{len(found.gained)} clips would come, {len(found.lost)} would go")
    if found.gained or found.lost:
        sheet = write_what_if(paths, found.gained, found.lost)
        lines.append(f"pictures of them: {short(sheet)}")
    console.print("\n".join(lines), highlight=False, markup=False)


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


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


def print_lineage(console: Console, found: Lineage) -> None:
    clip, source = found.clip, found.source
    reason = clip.rejected_by or clip.error
    lines = [
        f"clip: {clip.clip_id}, {clip.status}" + (f" ({reason})" if reason else ""),
        f"source: {source.uri}, from {clip.start_s:.3f} s to {clip.end_s:.3f} s, shot {clip.shot_index}",
        f"file: {source.location}",
        f"sha256 of the file begins with: {source.source_id}",
    ]
    lines += [
        f"  {name} {score.value:.4g}, by {score.backend}"
        for name, score in sorted(clip.scores.items())
    ]
    lines += [f"caption by {c.source}, {c.model}: {c.text}" for c in clip.captions]
    if clip.duplicate_of is not None:
        lines.append(f"near-duplicate of: {clip.duplicate_of}")
    if found.shard is not None:
        lines.append(f"shard: {found.shard}")
        lines += [
            f"  .{extension}: {member.size_bytes} bytes at {member.offset}"
            for extension, member in sorted(found.members.items())
        ]
    console.print("\n".join(lines), highlight=False, markup=False)


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
