"""What is known of a suite of prompts: how its videos were made, and what its authors' code found."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.evaluation.results import FORMAT_VERSION, RESULT_NAME, TABLE_NAME
from training.streaming.storage import write_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found, as the authors' code writes it, from 0 to 1."""

    judge: str
    """Whose code, and its version where it is known."""
    found: Mapping[str, float] = field(default_factory=dict[str, float])
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    """Made of `found` by the published constants; empty while any is missing."""
    missing: tuple[str, ...] = ()
    """Still to be judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteResult:
    """Two compare only where all but `source` and `verdict` is the same."""

    suite: str
    source: str
    """The name of the run."""
    weights_sha256: str
    prompts_sha256: str
    """Of the list."""
    num_prompts: int
    num_files: int
    """Videos or images."""
    num_frames: int
    fps: float
    height_px: int
    width_px: int
    seed: int
    num_sampling_steps: int
    solver: str
    guidance: str
    image_guidance_scale: float | None
    verdict: Verdict


def write_suite_result(result: SuiteResult, folder: Path) -> None:
    """RESULT_NAME for programs, TABLE_NAME for people."""
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(result)}, indent=2)
    write_whole(folder / RESULT_NAME, f"{text}\n".encode())
    write_whole(folder / TABLE_NAME, suite_markdown(result).encode())


def suite_markdown(result: SuiteResult) -> str:
    """Scores, then what they are made of, times 100 as the papers print them; under it how the files were made."""
    verdict = result.verdict
    lines = [f"# {result.suite}: {result.source}", "", "| | Value |", "|---|---|"]
    lines += [f"| **{name}** | {100 * value:.1f} |" for name, value in verdict.scores.items()]
    lines += [f"| {name} | {100 * value:.1f} |" for name, value in verdict.found.items()]
    guidance = result.guidance
    if result.image_guidance_scale is not None:
        guidance += f" (of the image {result.image_guidance_scale:g})"
    lines += [
        "",
        f"Judged by {verdict.judge}: {result.num_files} files of {result.num_prompts} prompts, {result.num_frames} frames, "
        f"{result.fps:g} fps, {result.width_px}x{result.height_px} px; {result.num_sampling_steps} steps of {result.solver}, "
        f"{guidance} guidance, seed {result.seed}.",
    ]
    if verdict.missing:
        lines.append(f"- still to be judged: {', '.join(verdict.missing)}")
    return "\n".join(lines) + "\n"
