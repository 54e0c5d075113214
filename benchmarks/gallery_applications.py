"""What the stages of the applications make: prediction, upsampling, interpolation, long video, views, classes.

Called by benchmarks/gallery.py. Where a real clip is given a part of, the rows are the made frames and below them the real ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modeling.frames import psnr
from training.camera_grid import camera_grid
from training.config import TrainConfig
from training.evaluation.clips import Format, choose_clips, read_clip, read_video
from training.evaluation.evaluate import VIDEOS_FOLDER, EvaluationPlan, evaluate_run
from training.evaluation.generation import Given, Sampling, Task, given_frames, given_of, make_video
from training.evaluation.judging import Judges
from training.evaluation.results import EvaluationResult
from training.generate import GenerateRequest, OpenRun, generate
from training.generate_request import makes_views
from training.generated_files import settings_file
from training.run_directory import RunDirectory
from training.streaming.buckets import is_held_out
from training.streaming.decode import FramesFHWC
from training.streaming.index import SampleIndex
from training.streaming.storage import RangeReader
from training.video_file import enlarge, write_gif

JUDGED: dict[str, Task] = {
    "first_four": "prediction",
    "every_second": "upsampling",
    "first_and_last": "interpolation",
}
GAP_PX = 4
SHOWN_HEIGHT_PX = 96
SHOWN_VIEW_PX = 240
"""Labels of the camera grid need so much."""
FILM_WIDTH_PX = 576
"""On the page; the file has the pixels that were made."""
NUM_SHOWN = 3
NUM_LONG_FRAMES = 24
PER_ROW = 8


@dataclass(frozen=True, kw_only=True)
class Application:
    """What a stage made, to be looked at."""

    text: str
    picture: Image.Image
    film: FramesFHWC
    fps: float
    """Of the film."""


def application_sections(run_dir: Path, dataset: str, docs: Path, judges: Judges) -> list[str]:
    """A section of the page for each stage that is an application."""
    config = RunDirectory(run_dir).load_config()
    sections: list[str] = []
    for stage, settings in config.stages.items():
        if makes_views(settings):
            made = _views(run_dir, config, stage, dataset)
        elif config.encoders.class_names:
            made = _classes(run_dir, config, stage)
        elif settings.given[0] in JUDGED:
            made = _judged(run_dir, config, stage, dataset, judges)
        elif config.data_of(stage).sampling_stride > config.data.sampling_stride:
            made = _long(run_dir, config, stage, dataset)
        else:
            continue
        picture, film = (Path("pictures") / f"gallery-{stage}.{kind}" for kind in ("jpg", "gif"))
        made.picture.save(docs / picture, quality=85)
        write_gif(made.film, docs / film, made.fps)
        result = RunDirectory(run_dir).stage(stage).result()
        assert result is not None, "the run is finished"
        trained = (
            f"{result.num_steps} steps; mean loss of the first tenth of them {result.first_loss:.2f}, of the last "
            f"{result.last_loss:.2f}"
        )
        sections.append(
            f"## {stage}, of {config.name}\n\n![{stage}]({picture})\n\n"
            f'<img src="{film}" width="{FILM_WIDTH_PX}" alt="{stage}, playing">\n\n{made.text} ({trained})\n'
        )
    return sections


def given_line(least_db: float, made: FramesFHWC, real: FramesFHWC) -> str:
    """`least_db` as generation reports it; `made` and `real` are the given frames in the file and in the clip."""
    in_file_db = psnr(torch.tensor(made), torch.tensor(real))
    return f"Given frames equal the input to {least_db:.1f} dB behind the autoencoder, and to {in_file_db:.1f} dB in the file"


def _judged(
    run_dir: Path, config: TrainConfig, stage: str, dataset: str, judges: Judges
) -> Application:
    task = JUDGED[config.stages[stage].given[0]]
    out = run_dir / stage / "gallery"
    sampling = Sampling(stage=stage)
    plan = EvaluationPlan(task=task, num_samples=4, sampling=sampling, held_out=True)
    result = evaluate_run(run_dir, [dataset], out, plan, judges)
    wanted = _format_of(config, stage)
    made: list[FramesFHWC] = []
    kept_db: list[float] = []
    clips = _held_out(config, stage, dataset, NUM_SHOWN)
    for clip_id, _, _ in clips:
        video = out / VIDEOS_FOLDER / f"{clip_id}.mp4"
        made.append(read_video(video, wanted))
        kept_db.append(json.loads(settings_file(video).read_bytes())["given_psnr_db"])
    real = [frames for _, _, frames in clips]
    places = list(given_frames(task, wanted.num_frames))
    given = given_line(min(kept_db), np.stack(made)[:, places], np.stack(real)[:, places])
    return Application(
        text=(
            f"{task.capitalize()}: frames {[place + 1 for place in places]} of 1 to {wanted.num_frames} are given. "
            f"{given}. {_numbers(result)}"
        ),
        picture=_sheet([row for pair in zip(made, real, strict=True) for row in pair]),
        film=film_of([made, real]),
        fps=result.fps,
    )


def _long(run_dir: Path, config: TrainConfig, stage: str, dataset: str) -> Application:
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
    assert made.given_psnr_db is not None, "the first frame is given"
    text = (
        f"Long video from a first frame and its caption: {wanted.num_frames} key frames, {wanted.stride} source frames apart, and "
        f"what the stage `interpolation` puts between them, {made.num_frames} frames in all, of which {NUM_LONG_FRAMES} are "
        f"shown and all are played. {given_line(made.given_psnr_db, frames[:1], real[:1])}."
    )
    rows = np.split(shown, NUM_LONG_FRAMES // PER_ROW)
    return Application(text=text, picture=_sheet(rows), film=frames, fps=made.fps)


def _views(run_dir: Path, config: TrainConfig, stage: str, dataset: str) -> Application:
    opened, wanted = OpenRun(run_dir), _format_of(config, stage)
    folder = run_dir / stage / "gallery"
    made: list[FramesFHWC] = []
    kept_db: list[float] = []
    clips = _held_out(config, stage, dataset, NUM_SHOWN)
    real = [frames for _, _, frames in clips]
    for clip_id, _, frames in clips:
        given = given_of("ti2v", frames, folder / "given" / clip_id, stride=1, fps=1.0)
        path = folder / f"{clip_id}.mp4"
        views = Given(task="multi_view", image=given.image)
        result = make_video(opened, "", path, Sampling(stage=stage), views)
        assert result.given_psnr_db is not None, "the first view is given"
        kept_db.append(result.given_psnr_db)
        made.append(read_video(path, wanted))
    line = given_line(min(kept_db), np.stack(made)[:, :1], np.stack(real)[:, :1])
    grids = [camera_grid(enlarge(rows[0], SHOWN_VIEW_PX)) for rows in (made, real)]
    return Application(
        text=(
            "Six views of an object from the first one, under their cameras, and below them the rendered ones; "
            f"{NUM_SHOWN} objects are played. {line}."
        ),
        picture=_stacked(grids),
        film=film_of([made, real]),
        fps=2.0,
    )


def _classes(run_dir: Path, config: TrainConfig, stage: str) -> Application:
    wanted, made, fps = _format_of(config, stage), list[FramesFHWC](), 0.0
    names = config.encoders.class_names[: 2 * NUM_SHOWN]
    for number, name in enumerate(names):
        path = run_dir / stage / "gallery" / f"class-{number}.mp4"
        fps = generate(run_dir, GenerateRequest(class_name=name), path, reuse=True).fps
        made.append(read_video(path, wanted))
    return Application(
        text=f"From the name of a class alone; the rows are {', '.join(names)}.",
        picture=_sheet(made),
        film=film_of([made[:NUM_SHOWN], made[NUM_SHOWN:]]),
        fps=fps,
    )


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


def film_of(rows: Sequence[Sequence[FramesFHWC]]) -> FramesFHWC:
    """Videos of one size beside and below each other, as one."""
    return np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    size = (pictures[0].width, sum(one.height + GAP_PX for one in pictures) - GAP_PX)
    sheet = Image.new("RGB", size, "white")
    for place, one in enumerate(pictures):
        sheet.paste(one, (0, place * (one.height + GAP_PX)))
    return sheet


def _sheet(rows: Sequence[FramesFHWC]) -> Image.Image:
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
    return sheet
