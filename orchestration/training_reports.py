"""What the Dagster UI shows of training: losses while they fall, then curves, validation and samples."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from orchestration.reporting import MAX_REPORT_BYTES, markdown, picture, table
from orchestration.work import OnWorkProgress, Result, WorkProgress

_REPORT_WIDTH_PX = 720
_LIVE = ("learning_rate", "grad_norm", "tokens_per_s", "mfu", "data_wait_share")
_POINTS = 20
"""Of a live curve, for each stage."""


def observe_training(context: dg.AssetExecutionContext, run: Path) -> OnWorkProgress:
    """A callback that records loss, learning rate and speed some times a stage, so that the UI draws them live."""

    def observe(progress: WorkProgress) -> None:
        from training.run_directory import RunDirectory
        from training.telemetry import read_metrics

        step, total = int(progress.done), int(progress.total)
        if progress.loss is None or (step % max(1, total // _POINTS) and step != total):
            return
        context.log.info(f"{progress.step}: step {step} of {total}, loss {progress.loss:.4f}")
        # Not the names that the materialisation uses, or one plot would mix both.
        shown: dict[str, float] = {"running_loss": progress.loss, "step": step}
        metrics = RunDirectory(run).stage(progress.step).metrics
        found = next((m for m in reversed(read_metrics(metrics)) if m["step"] == step), {})
        shown |= {f"running_{k}": v for k in _LIVE if (v := found.get(k)) is not None}
        context.log_event(dg.AssetObservation(context.asset_key, metadata=shown))

    return observe


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
        "report": markdown(sections),
        "clips_encoded": sum(s["num_encoded"] for s in sizes),
        "clips_failed": sum(s["num_failed"] for s in sizes),
        "shards_written": sum(s["num_shards_written"] for s in sizes),
        "shard_bytes": sum(s["num_bytes"] for s in sizes),
    }


def stage_metadata(run_dir: Path, stage: str) -> dict[str, Any]:
    """Steps, time, losses, speed, and a report with the loss curve and the losses by time from noise to data."""
    from training.run_directory import RunDirectory
    from training.telemetry import read_metrics, timestep_names

    directory = RunDirectory(run_dir).stage(stage)
    result = directory.result()
    assert result is not None, "the stage was trained"
    metrics = read_metrics(directory.metrics)
    tail = metrics[-max(1, len(metrics) // 10) :]
    by_time = [
        [loss for m in tail if (loss := m["loss_by_timestep"][n]) is not None]
        for n in range(len(timestep_names()))
    ]
    rows = [
        (name, f"{sum(losses) / len(losses):.4f}" if losses else "none")
        for name, losses in zip(timestep_names(), by_time, strict=True)
    ]
    tokens_per_s = sum(m["tokens_per_s"] for m in tail) / len(tail)
    mfu = [m["mfu"] for m in tail if m.get("mfu") is not None]
    shown: dict[str, Any] = {
        "report": markdown(
            {
                "Loss": picture("loss curve", small_picture(directory.loss_curve, "PNG")),
                "Loss at the end by time, from noise (0) to data (1)": table(("t", "loss"), rows),
                "More": f"`tensorboard --logdir {run_dir.name}/{stage}/tensorboard` in the folder of the runs",
            }
        ),
        "steps": result.num_steps,
        "train_seconds": round(result.seconds, 1),
        "first_loss": round(result.first_loss, 4),
        "last_loss": round(result.last_loss, 4),
        "clips": result.num_clips,
        "tokens_per_s": round(tokens_per_s, 1),
    }
    if result.validation_loss is not None:
        shown["validation_loss"] = round(result.validation_loss, 4)
    if mfu:
        shown["mfu"] = round(sum(mfu) / len(mfu), 4)
    return shown


def sample_metadata(result: Result) -> dict[str, Any]:
    """The frames that were sampled, and how well a given frame came through."""
    assert result is not None, "sampling says what it made"
    sections: dict[str, str] = {}
    room = MAX_REPORT_BYTES
    for sample in result["samples"]:
        shown = picture(sample["prompt"][:80], small_picture(Path(sample["sheet"]), "JPEG"))
        if len(shown) > room:
            break
        room -= len(shown) + len(sample["prompt"]) + 100
        title = "With a first frame" if sample["psnr_db"] is not None else "From text"
        number = len(sections) + 1
        sections[f"{number}. {title}"] = f"{sample['prompt']}\n\n{shown}"
    shown_numbers: dict[str, Any] = {"report": markdown(sections), "samples": len(sections)}
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
    return {"report": markdown(sections), **shown}


def small_picture(path: Path, kind: Literal["PNG", "JPEG"]) -> bytes:
    """A picture file at report size: plots as palette PNG, which stay sharp; photographs as JPEG."""
    from PIL import Image

    packed = io.BytesIO()
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_REPORT_WIDTH_PX, _REPORT_WIDTH_PX))
    if kind == "PNG":
        image.quantize(32).save(packed, format=kind, optimize=True)
    else:
        image.save(packed, format=kind, quality=80)
    return packed.getvalue()
