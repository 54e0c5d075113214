"""What the Dagster UI shows of training: losses while they fall, then curves, validation and samples."""

import io
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dagster as dg
from PIL import Image

from orchestration.links import tensorboard_link
from orchestration.metadata import fitted, picture, table
from orchestration.work import OnWorkProgress, Result, WorkProgress

_REPORT_WIDTH_PX = 720
_LIVE = ("learning_rate", "grad_norm", "tokens_per_s", "mfu", "data_wait_share")
_POINTS = 200
"""Of a live curve, for each stage."""
_SECONDS_BETWEEN_POINTS = 2.0
"""At least: stages of seconds need fewer points."""
_MAX_PREVIEWS = 2
_MAX_PHOTOGRAPH_BYTES = 60_000
_QUALITIES = (80, 60, 40, 20)


def observe_training(context: dg.AssetExecutionContext, run: Path) -> OnWorkProgress:
    """A callback that records losses, learning rate and speed while a stage trains, so that the UI draws them live; and
    each preview that was made since.
    """
    last: Point | None = None
    seen: set[Path] = set()

    def observe(progress: WorkProgress) -> None:
        nonlocal last
        step, total = int(progress.done), int(progress.total)
        now = Point(step, time.monotonic())
        if progress.loss is None or not (now.is_due_after(last, total) or step == total):
            return
        last = now
        context.log.info(f"{progress.step}: step {step} of {total}, loss {progress.loss:.4f}")
        shown = running_metadata(run, progress.step, step, progress.loss)
        new = [path for path in newest_previews(run, progress.step) if path not in seen]
        if new:
            seen.update(new)
            shown["report"] = {"Preview": _previews(new)}
        context.log_event(dg.AssetObservation(context.asset_key, metadata=fitted(shown)))

    return observe


class Point(NamedTuple):
    """Of a live curve."""

    step: int
    time_s: float

    def is_due_after(self, last: "Point | None", num_steps: int) -> bool:
        if last is None:
            return True
        # A stage that was started again goes back.
        far_enough = not 0 <= self.step - last.step < num_steps / _POINTS
        return far_enough and self.time_s - last.time_s >= _SECONDS_BETWEEN_POINTS


def running_metadata(run: Path, stage: str, step: int, loss: float) -> dict[str, Any]:
    """What is known of a step of a stage that goes on, by names that its materialisation does not use: one plot would mix
    both.
    """
    from training.run_directory import RunDirectory
    from training.step_lines import read_last_steps
    from training.telemetry import timestep_names

    shown: dict[str, Any] = {"running_loss": loss, "step": step}
    lines = read_last_steps(RunDirectory(run).stage(stage).metrics)
    found = next((line for line in reversed(lines) if line["step"] == step), {})
    shown |= {f"running_{k}": v for k in _LIVE if (v := found.get(k)) is not None}
    bins = zip(timestep_names(), found.get("loss_by_timestep", ()), strict=False)
    return shown | {f"running_loss_t{name}": v for name, v in bins if v is not None}


def newest_previews(run: Path, stage: str) -> list[Path]:
    """Contact sheets of the first prompts at the latest step that has some."""
    from training.run_directory import RunDirectory

    sheets = list(RunDirectory(run).stage(stage).previews.glob("step-*.png"))
    latest = max((sheet.name.rpartition("-")[0] for sheet in sheets), default="")
    mine = [sheet for sheet in sheets if sheet.name.rpartition("-")[0] == latest]
    return sorted(mine, key=lambda sheet: int(sheet.stem.rpartition("-")[2]))[:_MAX_PREVIEWS]


def _previews(sheets: Sequence[Path]) -> str:
    return "\n\n".join(picture(sheet.stem, small_picture(sheet, "JPEG")) for sheet in sheets)


def latent_metadata(result: Result) -> dict[str, Any]:
    """How many clips there are as latents, what failed, and what this run added."""
    assert result is not None, "encoding says what it did"
    sizes: list[Mapping[str, Any]] = result["sizes"]
    columns = ("folder", "clips", "failed", "without caption", "shards", "written now", "MiB")
    rows = [
        (
            Path(s["out"]).name,
            s["num_encoded"],
            s["num_failed"],
            s["num_without_caption"],
            s["num_shards"],
            s["num_shards_written"],
            f"{s['num_bytes'] / 2**20:.1f}",
        )
        for s in sizes
    ]
    sections = {"Latents": table(columns, rows)}
    failed = [failure.split(": ", 1) for s in sizes for failure in s["failures"]]
    if failed:
        sections["Failed"] = table(("clip", "why"), failed)
    return {
        "report": sections,
        "clips_encoded": sum(s["num_encoded"] for s in sizes),
        "clips_failed": sum(s["num_failed"] for s in sizes),
        "shards_written": sum(s["num_shards_written"] for s in sizes),
        "shard_bytes": sum(s["num_bytes"] for s in sizes),
    }


def stage_metadata(run_dir: Path, stage: str) -> dict[str, Any]:
    """Steps, time, losses, speed, and a report with the loss curves, the losses by time from noise to data, and the last
    previews.
    """
    from training.run_directory import RunDirectory
    from training.telemetry import read_metrics

    directory = RunDirectory(run_dir).stage(stage)
    result = directory.result()
    assert result is not None, "the stage was trained"
    settings = RunDirectory(run_dir).load_config().stages[stage]
    metrics = read_metrics(directory.metrics)
    tail = metrics[-max(1, len(metrics) // 10) :]
    sections: dict[str, str] = {}
    if directory.loss_curve.exists():
        sections["Loss"] = picture("loss curve", small_picture(directory.loss_curve, "PNG"))
    sections["Loss at the end by time, from noise (0) to data (1)"] = _losses_by_time(tail)
    for sheet in newest_previews(run_dir, stage):
        sections[f"Preview {sheet.stem}"] = _previews([sheet])
    shown: dict[str, Any] = {
        "report": sections,
        "curves": tensorboard_link(run_dir.name, stage),
        "steps": result.num_steps,
        "train_seconds": round(result.seconds, 1),
        "first_loss": round(result.first_loss, 4),
        "last_loss": round(result.last_loss, 4),
        "clips": result.num_clips,
        "clips_per_s": round(result.num_steps * settings.batch_size / max(result.seconds, 1e-3), 3),
        "tokens_per_s": _mean_of(tail, "tokens_per_s", digits=1),
        "mfu": _mean_of(tail, "mfu", digits=4),
        "validation_loss": result.validation_loss and round(result.validation_loss, 4),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _losses_by_time(tail: Sequence[Mapping[str, Any]]) -> str:
    """A table of their means over the last steps."""
    from training.telemetry import timestep_names

    rows: list[tuple[str, str]] = []
    for place, name in enumerate(timestep_names()):
        losses = [loss for m in tail if (loss := m["loss_by_timestep"][place]) is not None]
        rows.append((name, f"{sum(losses) / len(losses):.4f}" if losses else "none"))
    return table(("t", "loss"), rows)


def _mean_of(lines: Sequence[Mapping[str, Any]], name: str, *, digits: int) -> float | None:
    values = [value for line in lines if (value := line.get(name)) is not None]
    return round(sum(values) / len(values), digits) if values else None


def sample_metadata(result: Result) -> dict[str, Any]:
    """The frames that were sampled, and how well a given frame came through."""
    assert result is not None, "sampling says what it made"
    sections: dict[str, str] = {}
    for number, sample in enumerate(result["samples"], start=1):
        shown = picture(sample["prompt"][:80], small_picture(Path(sample["sheet"]), "JPEG"))
        title = "With a first frame" if sample["psnr_db"] is not None else "From text"
        sections[f"{number}. {title}"] = f"{sample['prompt']}\n\n{shown}"
    shown_numbers: dict[str, Any] = {"report": sections, "samples": len(sections)}
    psnr_db = [s["psnr_db"] for s in result["samples"] if s["psnr_db"] is not None]
    if psnr_db:
        shown_numbers["given_psnr_db"] = round(psnr_db[0], 1)
    return shown_numbers


def evaluation_metadata(result: Result) -> dict[str, Any]:
    """Each metric as a number, the tables of all tasks, and made videos above the real ones."""
    from training.evaluation.evaluate import SHEET_NAME
    from training.evaluation.results import TABLE_NAME

    assert result is not None, "evaluation says what it found"
    sections: dict[str, str] = {}
    shown: dict[str, Any] = {}
    for found in result["results"]:
        folder, task = Path(found["folder"]), Path(found["folder"]).name
        table_text = (folder / TABLE_NAME).read_text().partition("\n")[2].strip()
        sheet = picture(
            "made, and below the real clips", small_picture(folder / SHEET_NAME, "JPEG")
        )
        sections[task] = f"{table_text}\n\n{sheet}"
        shown |= {f"{task}_{m['name']}": round(m["value"], 4) for m in found["metrics"]}
        shown["videos"] = shown.get("videos", 0) + found["num_samples"]
    return {"report": sections, **shown}


def small_picture(path: Path, kind: Literal["PNG", "JPEG"]) -> bytes:
    """A picture file at report size: plots as palette PNG, which stay sharp; photographs as JPEG, as good as a share of
    the report allows.
    """
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_REPORT_WIDTH_PX, _REPORT_WIDTH_PX))
    if kind == "PNG":
        return _packed(image.quantize(32), kind, optimize=True)
    best, *others = (partial(_packed, image, kind, quality=quality) for quality in _QUALITIES)
    photograph = best()
    while len(photograph) > _MAX_PHOTOGRAPH_BYTES and others:
        photograph = others.pop(0)()
    return photograph


def _packed(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()
