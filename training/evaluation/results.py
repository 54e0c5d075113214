"""What an evaluation found, with all that a number needs to be compared with another."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from training.errors import EvaluationError
from training.streaming.storage import write_whole

RESULT_NAME = "result.json"
TABLE_NAME = "result.md"
FORMAT_VERSION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number. `backend` names the features or the code, and its version or the hash of its weights."""

    name: str
    value: float
    backend: str
    num_samples: int
    """Videos, or frames for a metric of single frames."""
    num_references: int | None
    """Real videos or frames compared with; None where there are none."""
    better: str
    """`lower` or `higher`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Numbers of two results compare only where all but `metrics` and `source` is the same."""

    suite: str
    source: str
    """Of the videos: the name of a run, or of a folder."""
    with_text: bool
    """False where the videos are made from given frames alone."""
    weights_sha256: str | None
    """None for a folder of videos."""
    dataset_fingerprint: str
    was_trained_on: bool | None
    """Whether the run was trained on these very shards; None for a folder of videos. False does not say that
    the clips are new to it: latents or another selection of the same clips are other shards."""
    held_out_share: float | None
    """Only clips that the validation of the run kept from training, this share of all ids; None: of all clips."""
    num_samples: int
    num_references: int
    """Fewer than samples where captions were taken more than once."""
    num_frames: int
    sampling_stride: int
    fps: float
    """Of the made videos; of a folder, of the first of them."""
    reference_fps: tuple[float, float, float]
    """Least, median and greatest rate at which frames are taken from the clips."""
    height_px: int
    width_px: int
    seed: int
    num_sampling_steps: int | None
    solver: str | None
    guidance: str | None
    image_guidance_scale: float | None
    """None where the scheme has none of its own."""
    metrics: tuple[Metric, ...]
    skipped: tuple[str, ...]
    """Metrics that were not computed, each with the reason."""


def write_result(result: EvaluationResult, folder: Path) -> None:
    """RESULT_NAME for programs, TABLE_NAME for people."""
    content = {"format_version": FORMAT_VERSION, **asdict(result)}
    text = json.dumps(content, indent=2, allow_nan=False)
    write_whole(folder / RESULT_NAME, f"{text}\n".encode())
    write_whole(folder / TABLE_NAME, markdown(result).encode())


def read_result(folder: Path) -> EvaluationResult:
    """The result that lies in a folder.

    Raises:
        EvaluationError: there is none, or it is unreadable or of another version.
    """
    path = folder / RESULT_NAME
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format_version") != FORMAT_VERSION:
            raise EvaluationError(f"{path} is of another version; evaluate again")
        metrics = tuple(Metric(**metric) for metric in content.pop("metrics"))
        for name in ("skipped", "reference_fps"):
            content[name] = tuple(content[name])
        return EvaluationResult(**content, metrics=metrics)
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise EvaluationError(
            f"{path} holds no readable result ({error}); evaluate again"
        ) from error


def markdown(result: EvaluationResult) -> str:
    """A table of the metrics, and under it what they were computed on."""
    relation = {
        True: "**the run was trained on them**",
        False: "not the shards that the run was trained on",
        None: "not known if they were trained on",
    }
    lines = [
        f"# {result.suite}: {result.source}",
        "",
        "| Metric | Value | Better | Samples | References | Backend |",
        "|---|---|---|---|---|---|",
    ]
    for metric in result.metrics:
        references = "-" if metric.num_references is None else metric.num_references
        lines.append(
            f"| {metric.name} | {metric.value:.4f} | {metric.better} | {metric.num_samples} | "
            f"{references} | {metric.backend} |"
        )
    seen = relation[result.was_trained_on]
    if result.held_out_share is not None:
        seen = f"held out from training, {result.held_out_share:g} of all"
    sampling = "given videos"
    if result.num_sampling_steps is not None:
        sampling = (
            f"{result.num_sampling_steps} steps of {result.solver}, {result.guidance} guidance"
        )
        if result.image_guidance_scale is not None:
            sampling += f", {result.image_guidance_scale:g} of the image"
        sampling += f", seed {result.seed}"
    if not result.with_text:
        sampling += ", without text"
    least, median, greatest = result.reference_fps
    lines += [
        "",
        f"{result.num_samples} videos of {result.num_frames} frames at stride {result.sampling_stride}, "
        f"{result.fps:g} fps, {result.width_px}x{result.height_px} px; {sampling}.",
        f"{result.num_references} clips of {result.dataset_fingerprint} at {least:g} to {greatest:g} fps, "
        f"median {median:g}: {seen}.",
    ]
    lines += [f"- not computed: {reason}" for reason in result.skipped]
    return "\n".join(lines) + "\n"
