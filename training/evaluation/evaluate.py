"""Videos of a run, or of a folder, against real clips: the metrics, a table and a contact sheet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.clips import (
    ClipRules,
    Format,
    Sample,
    choose_clips,
    rate_of,
    read_clip,
    read_video,
    samples_of,
)
from training.evaluation.generation import Sampling, Task, given_frames, given_of, make_video
from training.evaluation.judging import Judges, Judging
from training.evaluation.results import EvaluationResult, write_result
from training.generate import GenerateResult, OpenRun, finished_stage
from training.streaming.buckets import is_held_out
from training.streaming.decode import FramesFHWC
from training.streaming.index import SampleIndex
from training.streaming.storage import RangeReader
from training.video_file import write_contact_sheet

VIDEOS_FOLDER = "videos"
GIVEN_FOLDER = "given"
SHEET_NAME = "contact_sheet.png"
MAX_SHEET_VIDEOS = 4

OnVideo = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What is compared with what. `format` None takes that of the run."""

    suite: str = "clips"
    task: Task = "t2v"
    num_samples: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    format: Format | None = None
    held_out: bool = False
    """Only clips that the validation of the stage kept from training."""
    with_text: bool = True
    """False makes videos from the given frames alone."""
    may_repeat: bool = False
    """Make several videos of a caption where there are fewer clips than `num_samples`; the clips are references once."""

    @property
    def uses_text(self) -> bool:
        """Views are made from the one view alone."""
        return self.with_text and self.task != "multi_view"


@dataclass(frozen=True)
class _Clips:
    """The clips of an evaluation, the videos to make of them, and what all are brought to."""

    index: SampleIndex
    samples: list[Sample]
    wanted: Format
    held_out_share: float | None = None


def evaluate_run(
    run_dir: Path,
    datasets: Sequence[str],
    out: Path,
    plan: EvaluationPlan,
    judges: Judges,
    on_video: OnVideo = lambda _done, _total: None,
) -> EvaluationResult:
    """Make a video for each of `plan.num_samples` clips and judge them. Videos made already are left.

    Encoders and model are loaded once, and of the videos a few stay in memory, however many there are.

    Raises:
        EvaluationError: too few clips, a format that the run does not make, or videos that a metric cannot use; or
            clips held out are asked for, and the stage has no validation.
        GenerateError: the run cannot make the videos.
        DataError: the data set is broken.
    """
    opened = OpenRun(run_dir)
    stage = finished_stage(opened.config, opened.run, plan.task, plan.sampling.stage).stage
    share = _held_out_share(opened.config, stage) if plan.held_out else None
    clips = _choose(datasets, plan, _format(plan, opened.config, stage), share)
    judging, sheet = _judging(plan, judges, clips.wanted), list[FramesFHWC]()
    reader = RangeReader()
    made: GenerateResult | None = None
    for done, sample in enumerate(clips.samples, start=1):
        clip = sample.clip
        real = read_clip(reader, clip, clips.wanted)
        given = given_of(
            plan.task,
            real,
            out / GIVEN_FOLDER / clip.clip_id,
            stride=clips.wanted.stride,
            fps=clip.fps,
        )
        video = out / VIDEOS_FOLDER / f"{sample.name}.mp4"
        text = clip.caption if plan.uses_text else ""
        made = make_video(opened, text, video, plan.sampling, given)
        _judge(judging, sample, (read_video(video, clips.wanted), real), sheet)
        on_video(done, len(clips.samples))
    assert made is not None  # there is one sample at least
    result = _result(
        plan,
        clips,
        judging,
        source=run_dir.resolve().name,
        was_trained_on=opened.run.fingerprint() == clips.index.fingerprint,
        fps=made.fps,
        made=made,
    )
    _write(result, sheet, out)
    return result


def evaluate_videos(
    videos: Path, datasets: Sequence[str], out: Path, plan: EvaluationPlan, judges: Judges
) -> EvaluationResult:
    """Judge the videos CLIP_ID.mp4 of a folder, from whatever model, against the same clips.

    Raises:
        EvaluationError: no format is given, a video is missing, or a metric cannot use them.
        DataError: the data set is broken.
    """
    if plan.format is None:
        raise EvaluationError(
            "a folder of videos needs --num-frames, --stride, --height and --width"
        )
    clips = _choose(datasets, plan, plan.format)
    judging, sheet = _judging(plan, judges, clips.wanted), list[FramesFHWC]()
    reader = RangeReader()
    for sample in clips.samples:
        made = read_video(videos / f"{sample.name}.mp4", clips.wanted)
        _judge(judging, sample, (made, read_clip(reader, sample.clip, clips.wanted)), sheet)
    result = _result(
        plan,
        clips,
        judging,
        source=videos.resolve().name,
        was_trained_on=None,
        fps=rate_of(videos / f"{clips.samples[0].name}.mp4"),
    )
    _write(result, sheet, out)
    return result


def _choose(
    datasets: Sequence[str], plan: EvaluationPlan, wanted: Format, share: float | None = None
) -> _Clips:
    if not plan.with_text and plan.task in ("t2i", "t2v"):
        raise EvaluationError(
            f"task {plan.task} is made from text alone; without text take a task with given frames"
        )
    index = SampleIndex.open(datasets)
    among = None if share is None else is_held_out(index, share)
    rules = ClipRules(needs_caption=plan.uses_text, may_be_fewer=plan.may_repeat)
    clips = choose_clips(index, plan.num_samples, wanted, plan.sampling.seed, among, rules)
    return _Clips(index, samples_of(clips, plan.num_samples), wanted, share)


def _format(plan: EvaluationPlan, config: TrainConfig, stage: str) -> Format:
    data, num_frames = config.data_of(stage), config.stages[stage].num_frames
    wanted = plan.format
    if wanted is None:
        return Format(
            num_frames=num_frames,
            stride=data.sampling_stride,
            height_px=data.height_px,
            width_px=data.width_px,
        )
    if wanted.stride != data.sampling_stride:
        raise EvaluationError(
            f"--stride {wanted.stride}, but stage {stage} makes videos of stride {data.sampling_stride}: real clips at "
            "another rate are other videos; give the stride of the stage"
        )
    needs_all = plan.task in ("upsampling", "interpolation") and wanted.num_frames != num_frames
    if needs_all or wanted.num_frames > num_frames:
        raise EvaluationError(
            f"--num-frames {wanted.num_frames}, but stage {stage} makes {num_frames} frames; give that many"
            + ("" if needs_all else " or fewer")
        )
    return wanted


def _held_out_share(config: TrainConfig, stage: str) -> float:
    """What every stage that the weights come from held out: clips are held out by their ids, smaller shares first."""
    shares: list[float] = []
    for name in config.needed_for(stage):
        validation = config.stages[name].validation
        if validation is None:
            raise EvaluationError(
                f"stage {name} has no validation, so no clip was held out from its training; train with "
                f"stages.{name}.validation, or evaluate on clips of another data set"
            )
        shares.append(validation.share)
    return min(shares)


def _judging(plan: EvaluationPlan, judges: Judges, wanted: Format) -> Judging:
    return Judging(judges, given_frames(plan.task, wanted.num_frames), with_text=plan.uses_text)


def _judge(
    judging: Judging, sample: Sample, pair: tuple[FramesFHWC, FramesFHWC], sheet: list[FramesFHWC]
) -> None:
    made, real = pair
    judging.add(made, real if sample.is_first else None, sample.clip.caption)
    if judging.num_made <= MAX_SHEET_VIDEOS:
        # A row of made frames above the row of the real ones, four of each.
        sheet += [_four_frames(made), _four_frames(real)]


def _result(
    plan: EvaluationPlan,
    clips: _Clips,
    judging: Judging,
    *,
    made: GenerateResult | None = None,
    **known: Any,
) -> EvaluationResult:
    """What of it is `known` besides, and what `made` says of the sampling."""
    metrics, skipped = judging.metrics()
    rates = [sample.clip.fps / clips.wanted.stride for sample in clips.samples if sample.is_first]
    return EvaluationResult(
        suite=f"{plan.suite} {plan.task}",
        with_text=plan.uses_text,
        weights_sha256=made and made.weights_sha256,
        dataset_fingerprint=clips.index.fingerprint,
        held_out_share=clips.held_out_share,
        num_samples=judging.num_made,
        num_references=judging.num_references,
        reference_fps=(min(rates), float(np.median(rates)), max(rates)),
        num_frames=clips.wanted.num_frames,
        sampling_stride=clips.wanted.stride,
        height_px=clips.wanted.height_px,
        width_px=clips.wanted.width_px,
        seed=plan.sampling.seed,
        num_sampling_steps=made and made.num_sampling_steps,
        solver=made and made.solver,
        guidance=made and f"{made.guidance_scheme} {made.guidance_scale:g}",
        image_guidance_scale=made and made.image_guidance_scale,
        metrics=metrics,
        skipped=skipped,
        **known,
    )


def _write(result: EvaluationResult, sheet: Sequence[FramesFHWC], out: Path) -> None:
    write_result(result, out)
    write_contact_sheet(np.concatenate(sheet), out / SHEET_NAME)


def _four_frames(frames: FramesFHWC) -> FramesFHWC:
    at = np.linspace(0, len(frames) - 1, 4).round().astype(int)
    return frames[at]
