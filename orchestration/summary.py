"""What a person reads at the end of a command."""

from pathlib import Path

from rich.console import Console

from data_engine.report import RunReport
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
        f"{report.source_hours * 60:.1f} minutes",
    ]
    for name, left in report.funnel():
        lines.append(f"  {left:5d}  {name}")
    lines += [
        f"clips: {report.num_kept} kept + {report.num_rejected} rejected + {report.num_failed} failed "
        f"= {report.num_clips} cut",
        f"shards: {report.num_shards} with {report.num_sharded_clips} clips, "
        f"{report.kept_hours * 60:.1f} minutes",
    ]
    lines += [f"failed: {count} x {error}" for error, count in report.failed_by.items()]
    console.print("\n".join(lines), highlight=False, markup=False)


def print_training(console: Console, result: TrainResult) -> None:
    lines = [f"run: {short(result.run_dir)}"]
    lines += [
        f"  {stage.stage:<6} {stage.num_steps:5d} steps in {stage.seconds:5.1f} s, "
        f"loss {stage.first_loss:.4f} -> {stage.last_loss:.4f} (mean of first and last tenth)"
        for stage in result.stages
    ]
    console.print("\n".join(lines), highlight=False, markup=False)


def print_generated(console: Console, result: GenerateResult) -> None:
    lines = [f"video: {short(result.video)}", f"frames: {short(result.contact_sheet)}"]
    if result.first_frame_psnr_db is not None:
        lines.append(
            f"first frame against the given image, both through the autoencoder: "
            f"{result.first_frame_psnr_db:.1f} dB"
        )
    console.print("\n".join(lines), highlight=False, markup=False)
