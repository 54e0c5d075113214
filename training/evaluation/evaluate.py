"""Videos of a run, or of a folder, against real clips: the metrics, a table and a contact sheet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.clips import Format, choose_clips, read_clip, read_video
from training.evaluation.features import InceptionFeatures, VideoFeatures
from training.evaluation.generation import Sampling, Task, given_frames, given_of, make_video
from training.evaluation.metrics import (
    frechet_distance,
    inception_score,
    paired_cosine,
    psnr_db,
    ssim,
)
from training.evaluation.results import EvaluationResult, Metric, write_result
from training.generate import GenerateResult, finished_stage
from training.run_directory import RunDirectory
from training.streaming.buckets import is_held_out
from training.streaming.decode import FramesFHWC
from training.streaming.index import Clip, SampleIndex
from training.streaming.storage import RangeReader
from training.video_file import write_contact_sheet

VIDEOS_FOLDER = "videos"
GIVEN_FOLDER = "given"
SHEET_NAME = "contact_sheet.png"
MAX_SHEET_VIDEOS = 4
MAX_PSNR_DB = 100.0
"""For equal frames, whose ratio is infinite and has no place in a mean."""
IS_SPLITS = 10
MIN_FID_SAMPLES = 2

OnVideo = Callable[[int, int], None]


class TextSimilarity(Protocol):
    """Pictures and texts in one space; `score_name` says which metric their cosine is."""

    @property
    def backend(self) -> str: ...
    @property
    def score_name(self) -> str: ...
    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]: ...
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class PerceptualDistance(Protocol):
    """LPIPS between frames."""

    @property
    def backend(self) -> str: ...
    def distances(self, made: FramesFHWC, real: FramesFHWC) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The networks that look at the videos."""

    features: tuple[VideoFeatures, ...]
    similarity: TextSimilarity | None = None
    perceptual: PerceptualDistance | None = None


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


@dataclass(frozen=True)
class _Pair:
    """A made video and the real clip of the same caption."""

    made: FramesFHWC
    real: FramesFHWC
    caption: str


def evaluate_run(
    run_dir: Path,
    datasets: Sequence[str],
    out: Path,
    plan: EvaluationPlan,
    judges: Judges,
    on_video: OnVideo = lambda _done, _total: None,
) -> EvaluationResult:
    """Make a video for each of `plan.num_samples` clips and judge them. Videos made already are left.

    Raises:
        EvaluationError: too few clips, or videos that a metric cannot use; or clips held out are asked for, and the
            stage has no validation.
        GenerateError: the run cannot make the videos.
        DataError: the data set is broken.
    """
    run = RunDirectory(run_dir)
    config = run.load_config()
    stage = finished_stage(config, run, plan.task, plan.sampling.stage).stage
    wanted = plan.format or _format_of(config, stage)
    index = SampleIndex.open(datasets)
    share = _held_out_share(config, stage) if plan.held_out else None
    among = None if share is None else is_held_out(index, share)
    clips = choose_clips(index, plan.num_samples, wanted, plan.sampling.seed, among)
    reader, pairs = RangeReader(), list[_Pair]()
    made: GenerateResult | None = None
    for done, clip in enumerate(clips, start=1):
        real = read_clip(reader, clip, wanted)
        given = given_of(
            plan.task,
            real,
            out / GIVEN_FOLDER / clip.clip_id,
            stride=wanted.stride,
            fps=clip.fps,
        )
        video = out / VIDEOS_FOLDER / f"{clip.clip_id}.mp4"
        # Views are made from the one view alone.
        text = "" if plan.task == "multi_view" else clip.caption
        made = make_video(run_dir, text, video, plan.sampling, given)
        pairs.append(_Pair(read_video(video, wanted), real, clip.caption))
        on_video(done, len(clips))
    assert made is not None  # choose_clips gives at least one
    metrics, skipped = _judge(pairs, judges, plan.task)
    result = EvaluationResult(
        suite=f"{plan.suite} {plan.task}",
        source=run_dir.resolve().name,
        weights_sha256=made.weights_sha256,
        dataset_fingerprint=index.fingerprint,
        was_trained_on=run.fingerprint() == index.fingerprint,
        held_out_share=share,
        num_samples=len(pairs),
        num_frames=wanted.num_frames,
        sampling_stride=wanted.stride,
        fps=made.fps,
        height_px=wanted.height_px,
        width_px=wanted.width_px,
        seed=plan.sampling.seed,
        num_sampling_steps=made.num_sampling_steps,
        guidance=f"{made.guidance_scheme} {made.guidance_scale:g}",
        metrics=metrics,
        skipped=skipped,
    )
    _write(result, pairs, out)
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
    wanted = plan.format
    index = SampleIndex.open(datasets)
    clips = choose_clips(index, plan.num_samples, wanted, plan.sampling.seed)
    reader = RangeReader()
    pairs = [_given_pair(videos, clip, reader, wanted) for clip in clips]
    metrics, skipped = _judge(pairs, judges, plan.task)
    result = EvaluationResult(
        suite=f"{plan.suite} {plan.task}",
        source=videos.resolve().name,
        weights_sha256=None,
        dataset_fingerprint=index.fingerprint,
        was_trained_on=None,
        held_out_share=None,
        num_samples=len(pairs),
        num_frames=wanted.num_frames,
        sampling_stride=wanted.stride,
        fps=float(np.median([clip.fps for clip in clips])) / wanted.stride,
        height_px=wanted.height_px,
        width_px=wanted.width_px,
        seed=plan.sampling.seed,
        num_sampling_steps=None,
        guidance=None,
        metrics=metrics,
        skipped=skipped,
    )
    _write(result, pairs, out)
    return result


def _given_pair(videos: Path, clip: Clip, reader: RangeReader, wanted: Format) -> _Pair:
    made = read_video(videos / f"{clip.clip_id}.mp4", wanted)
    return _Pair(made, read_clip(reader, clip, wanted), clip.caption)


def _format_of(config: TrainConfig, stage: str) -> Format:
    data = config.data_of(stage)
    return Format(
        num_frames=config.stages[stage].num_frames,
        stride=data.sampling_stride,
        height_px=data.height_px,
        width_px=data.width_px,
    )


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


def _judge(
    pairs: Sequence[_Pair], judges: Judges, task: Task
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    metrics: list[Metric] = []
    skipped: list[str] = []
    for features in judges.features:
        metrics += _distribution(pairs, features, skipped)
    if judges.similarity is not None:
        metrics.append(_similarity(pairs, judges.similarity))
    if given := given_frames(task, len(pairs[0].made)):
        metrics += _fidelity(pairs, given, judges.perceptual)
    else:
        skipped.append("PSNR and SSIM: without a given frame no video is meant to equal its clip")
    return tuple(metrics), tuple(skipped)


def _distribution(
    pairs: Sequence[_Pair], features: VideoFeatures, skipped: list[str]
) -> list[Metric]:
    if len(pairs) < MIN_FID_SAMPLES:
        skipped.append(f"{features.metric}: needs at least {MIN_FID_SAMPLES} videos")
        return []
    made = features.features([pair.made for pair in pairs])
    real = features.features([pair.real for pair in pairs])
    metrics = [
        Metric(
            name=features.metric,
            value=frechet_distance(made, real),
            backend=features.backend,
            num_samples=len(made),
            num_references=len(real),
            better="lower",
        )
    ]
    if isinstance(features, InceptionFeatures):
        splits = min(IS_SPLITS, len(made))
        score, _ = inception_score(features.probabilities(made), splits)
        metrics.append(
            Metric(
                name="inception_score_torchvision",
                value=score,
                backend=f"{features.backend}, {splits} splits",
                num_samples=len(made),
                num_references=None,
                better="higher",
            )
        )
    return metrics


def _similarity(pairs: Sequence[_Pair], similarity: TextSimilarity) -> Metric:
    texts = similarity.embed_texts([pair.caption for pair in pairs])
    cosines = [
        paired_cosine(
            images := similarity.embed_images(list(p.made)), np.tile(text, (len(images), 1))
        )
        for p, text in zip(pairs, texts, strict=True)
    ]
    return Metric(
        name=similarity.score_name,
        value=float(np.mean([c.mean() for c in cosines])),
        backend=f"{similarity.backend}, mean over frames, then videos",
        num_samples=len(pairs),
        num_references=None,
        better="higher",
    )


def _fidelity(
    pairs: Sequence[_Pair], given: Sequence[int], perceptual: PerceptualDistance | None
) -> list[Metric]:
    """Of the frames that were not given: those would show the autoencoder only."""
    left = [place for place in range(len(pairs[0].made)) if place not in given]
    made = np.concatenate([pair.made[left] for pair in pairs])
    real = np.concatenate([pair.real[left] for pair in pairs])
    of_files = "of the mp4 files, mean over frames"
    found = [
        _of_frames("psnr_db", np.minimum(psnr_db(made, real), MAX_PSNR_DB), of_files),
        _of_frames("ssim", ssim(made, real), f"scikit-image, Gaussian window, {of_files}"),
    ]
    if perceptual is not None:
        distances = perceptual.distances(made, real)
        found.append(_of_frames("lpips", distances, perceptual.backend, "lower"))
    return found


def _of_frames(
    name: str,
    values: NDArray[Any],
    backend: str,
    better: Literal["higher", "lower"] = "higher",
) -> Metric:
    return Metric(
        name=name,
        value=float(values.mean()),
        backend=backend,
        num_samples=len(values),
        num_references=len(values),
        better=better,
    )


def _write(result: EvaluationResult, pairs: Sequence[_Pair], out: Path) -> None:
    write_result(result, out)
    # A row of made frames above the row of the real ones, four of each.
    rows = [_four_frames(frames) for p in pairs[:MAX_SHEET_VIDEOS] for frames in (p.made, p.real)]
    write_contact_sheet(np.concatenate(rows), out / SHEET_NAME)


def _four_frames(frames: FramesFHWC) -> FramesFHWC:
    at = np.linspace(0, len(frames) - 1, 4).round().astype(int)
    return frames[at]
