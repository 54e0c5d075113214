"""What the stages of the applications make: prediction, upsampling, interpolation, long video, views, classes.

Called by benchmarks/gallery.py. Where a real clip is given a part of, the rows are the made frames and below them the real ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from training.config import TrainConfig
from training.evaluation.clips import Format, choose_clips, read_clip, read_video
from training.evaluation.evaluate import EvaluationPlan, evaluate_run
from training.evaluation.generation import Given, Sampling, Task, given_frames, given_of, make_video
from training.evaluation.judging import Judges
from training.evaluation.results import EvaluationResult
from training.generate import GenerateRequest, OpenRun, generate
from training.generate_request import makes_views
from training.run_directory import RunDirectory
from training.streaming.buckets import is_held_out
from training.streaming.decode import FramesFHWC
from training.streaming.index import SampleIndex
from training.streaming.storage import RangeReader
from training.telemetry import read_steps

JUDGED: dict[str, Task] = {
    "first_four": "prediction",
    "every_second": "upsampling",
    "first_and_last": "interpolation",
}
GAP_PX = 4
SHOWN_HEIGHT_PX = 96
NUM_SHOWN = 3
NUM_LONG_FRAMES = 24
PER_ROW = 8


def application_sections(run_dir: Path, dataset: str, docs: Path, judges: Judges) -> list[str]:
    """A section of the page for each stage that is an application."""
    config = RunDirectory(run_dir).load_config()
    sections: list[str] = []
    for stage, settings in config.stages.items():
        picture = Path("pictures") / f"gallery-{stage}.jpg"
        if makes_views(settings):
            text, rows = _views(run_dir, config, stage, dataset)
        elif config.encoders.class_names:
            text, rows = _classes(run_dir, config, stage)
        elif settings.given[0] in JUDGED:
            text, rows = _judged(run_dir, config, stage, dataset, judges)
        elif config.data_of(stage).sampling_stride > config.data.sampling_stride:
            text, rows = _long(run_dir, config, stage, dataset)
        else:
            continue
        _write_sheet(rows, docs / picture)
        first, last = (read_steps(RunDirectory(run_dir).stage(stage).metrics)[at] for at in (0, -1))
        trained = f"{last['step']} steps, loss {first['loss']:.2f} to {last['loss']:.2f}"
        sections.append(
            f"## {stage}, of {config.name}\n\n![{stage}]({picture})\n\n{text} ({trained})\n"
        )
    return sections


def _judged(
    run_dir: Path, config: TrainConfig, stage: str, dataset: str, judges: Judges
) -> tuple[str, list[FramesFHWC]]:
    task = JUDGED[config.stages[stage].given[0]]
    out = run_dir / stage / "gallery"
    sampling = Sampling(stage=stage)
    plan = EvaluationPlan(task=task, num_samples=4, sampling=sampling, held_out=True)
    result = evaluate_run(run_dir, [dataset], out, plan, judges)
    wanted = _format_of(config, stage)
    rows: list[FramesFHWC] = []
    for clip_id, _, real in _held_out(config, stage, dataset, NUM_SHOWN):
        rows += [read_video(out / "videos" / f"{clip_id}.mp4", wanted), real]
    given = [place + 1 for place in given_frames(task, wanted.num_frames)]
    return (
        f"{task.capitalize()}: frames {given} of 1 to {wanted.num_frames} are given. {_numbers(result)}",
        rows,
    )


def _long(
    run_dir: Path, config: TrainConfig, stage: str, dataset: str
) -> tuple[str, list[FramesFHWC]]:
    wanted = _format_of(config, stage)
    # No clip that was held out is as long as the key frames: only its first frame is taken.
    ((clip_id, caption, real),) = _held_out(
        config, stage, dataset, 1, replace(wanted, num_frames=2, stride=1)
    )
    folder = run_dir / stage / "gallery"
    image = given_of("ti2v", real, folder / "given" / clip_id, stride=1, fps=1.0).image
    made = generate(
        run_dir,
        GenerateRequest(prompt=caption, image=image, task="long", cut_prompt=True),
        folder / f"{clip_id}.mp4",
        reuse=True,
    )
    all_frames = Format(
        num_frames=made.num_frames, stride=1, height_px=wanted.height_px, width_px=wanted.width_px
    )
    frames = read_video(folder / f"{clip_id}.mp4", all_frames)
    shown = frames[np.linspace(0, len(frames) - 1, NUM_LONG_FRAMES).round().astype(int)]
    text = (
        f"Long video from a first frame and its caption: {wanted.num_frames} key frames, {wanted.stride} source frames apart, and "
        f"what the stage `interpolation` puts between them, {made.num_frames} frames in all, of which {NUM_LONG_FRAMES} are shown"
    )
    return text, [*np.split(shown, NUM_LONG_FRAMES // PER_ROW)]


def _views(
    run_dir: Path, config: TrainConfig, stage: str, dataset: str
) -> tuple[str, list[FramesFHWC]]:
    wanted, folder = _format_of(config, stage), run_dir / stage / "gallery"
    rows: list[FramesFHWC] = []
    for clip_id, _, real in _held_out(config, stage, dataset, NUM_SHOWN):
        given = given_of("ti2v", real, folder / "given" / clip_id, stride=1, fps=1.0)
        path = folder / f"{clip_id}.mp4"
        views = Given(task="multi_view", image=given.image)
        make_video(OpenRun(run_dir), "", path, Sampling(stage=stage), views)
        rows += [read_video(path, wanted), real]
    return "Six views of an object from the first one, and below them the rendered ones.", rows


def _classes(run_dir: Path, config: TrainConfig, stage: str) -> tuple[str, list[FramesFHWC]]:
    wanted, rows = _format_of(config, stage), list[FramesFHWC]()
    names = config.encoders.class_names[: 2 * NUM_SHOWN]
    for number, name in enumerate(names):
        path = run_dir / stage / "gallery" / f"class-{number}.mp4"
        generate(run_dir, GenerateRequest(class_name=name), path, reuse=True)
        rows.append(read_video(path, wanted))
    return f"From the name of a class alone; the rows are {', '.join(names)}.", rows


def _held_out(
    config: TrainConfig, stage: str, dataset: str, num: int, wanted: Format | None = None
) -> list[tuple[str, str, FramesFHWC]]:
    """Id, caption and frames of clips that the stage was not trained on."""
    index, wanted = SampleIndex.open([dataset]), wanted or _format_of(config, stage)
    validation = config.stages[stage].validation
    assert validation is not None, "the recipes of this size hold clips out"
    among = is_held_out(index, validation.share)
    clips = choose_clips(index, num, wanted, 0, among)
    return [(clip.clip_id, clip.caption, read_clip(RangeReader(), clip, wanted)) for clip in clips]


def _format_of(config: TrainConfig, stage: str) -> Format:
    data = config.data_of(stage)
    return Format(
        num_frames=config.stages[stage].num_frames,
        stride=data.sampling_stride,
        height_px=data.height_px,
        width_px=data.width_px,
    )


def _numbers(result: EvaluationResult) -> str:
    numbers = ", ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
    return f"{result.num_samples} clips: {numbers}"


def _write_sheet(rows: Sequence[FramesFHWC], path: Path) -> None:
    """A row of frames for each of `rows`, enlarged."""
    height_px, width_px = (
        SHOWN_HEIGHT_PX,
        round(SHOWN_HEIGHT_PX * rows[0].shape[2] / rows[0].shape[1]),
    )
    longest = max(len(row) for row in rows)
    size = (longest * (width_px + GAP_PX) - GAP_PX, len(rows) * (height_px + GAP_PX) - GAP_PX)
    sheet = Image.new("RGB", size, "white")
    for line, row in enumerate(rows):
        for place, frame in enumerate(row):
            enlarged = Image.fromarray(frame).resize(
                (width_px, height_px), Image.Resampling.LANCZOS
            )
            sheet.paste(enlarged, (place * (width_px + GAP_PX), line * (height_px + GAP_PX)))
    sheet.save(path, quality=85)
