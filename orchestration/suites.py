"""`stiv evaluate --suite` with the prompts of a benchmark: make the files, have them judged where that can be, and keep what is
known of them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from training.checkpoint import file_sha256
from training.evaluation import image_benchmarks as images_of
from training.evaluation import prompt_suites as suites
from training.evaluation import vbench
from training.evaluation.generation import Sampling
from training.evaluation.suite_files import make_suite
from training.evaluation.suite_result import (
    SuiteResult,
    Verdict,
    suite_markdown,
    write_suite_result,
)
from training.evaluation.vbench_scores import (
    CAMERA_MOTION,
    DIMENSIONS,
    I2V,
    QUALITY,
    vbench_i2v_scores,
    vbench_scores,
)
from training.generate import GenerateResult, OpenRun
from training.streaming.storage import write_whole

VIDEOS, IMAGES = "videos", "images"
OnFile = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """The options of a suite of prompts."""

    name: str
    prompts: Path | None
    dimensions: tuple[str, ...]
    images: Path | None
    program: vbench.VBench | None
    """Of VBench, where it can be run."""

    @property
    def is_vbench(self) -> bool:
        return self.name.startswith("vbench")

    def list_of_prompts(self) -> Path:
        """Raises:
        EvaluationError: there is none.
        """
        if self.name == "vbench":
            return suites.prompt_list(self.prompts)
        if self.prompts is None:
            raise typer.BadParameter(f"--suite {self.name} needs --prompts")
        return self.prompts

    def items(self, prompts: Path, folder: Path) -> list[suites.SuiteItem]:
        """Raises:
        EvaluationError: the list is of another suite.
        """
        if self.name == "geneval":
            return suites.geneval_items(prompts, folder)
        if self.name == "dsg":
            return suites.dsg_items(prompts)
        if self.name == "vbench_i2v" and self.images is None:
            raise typer.BadParameter("--suite vbench_i2v needs --images")
        return suites.vbench_items(suites.read_prompts(prompts, self.dimensions), self.images)


def run_suite(
    run: Path, out: Path, suite: Suite, sampling: Sampling, on_file: OnFile, say: Say
) -> None:
    """Make what is missing, judge what is not judged, and write result.json, result.md and what remains to be done.

    Raises:
        EvaluationError, GenerateError: the prompts, the run or the judge are at fault.
    """
    prompts = suite.list_of_prompts()
    shown = VIDEOS if suite.is_vbench else IMAGES
    items = suite.items(prompts, out / shown)
    made = make_suite(OpenRun(run), items, out, shown, sampling, on_file)

    def keep(verdict: Verdict) -> SuiteResult:
        result = _result(run, suite, prompts, items, (made, sampling.seed, verdict))
        write_suite_result(result, out)
        return result

    if suite.name == "vbench":
        write_whole(out / vbench.LIST_NAME, prompts.read_bytes())
        if suite.program is not None:
            keep(_verdict(suite, prompts, items, out))
            _run_program(suite, suite.program, out, keep, say)
    result = keep(_verdict(suite, prompts, items, out))
    say(suite_markdown(result))
    if result.verdict.missing:
        say(_what_to_do(suite, prompts, out, result.verdict.missing))
    say(f"result: {out}")


def _result(
    run: Path,
    suite: Suite,
    prompts: Path,
    items: Sequence[suites.SuiteItem],
    facts: tuple[GenerateResult, int, Verdict],
) -> SuiteResult:
    made, seed, verdict = facts
    return SuiteResult(
        suite=suite.name,
        source=run.resolve().name,
        weights_sha256=made.weights_sha256,
        prompts_sha256=file_sha256(prompts),
        num_prompts=len({(item.prompt, item.given.image, item.seed_name) for item in items}),
        num_files=len(items),
        num_frames=made.num_frames,
        fps=made.fps,
        height_px=made.height_px,
        width_px=made.width_px,
        seed=seed,
        num_sampling_steps=made.num_sampling_steps,
        solver=made.solver,
        guidance=f"{made.guidance_scheme} {made.guidance_scale:g}",
        image_guidance_scale=made.image_guidance_scale,
        verdict=verdict,
    )


def _run_program(
    suite: Suite,
    program: vbench.VBench,
    out: Path,
    keep: Callable[[Verdict], SuiteResult],
    say: Say,
) -> None:
    """One dimension after the other; what was judged before one that fails is kept."""
    for dimension in _missing(suite, vbench.read_dimensions(out / vbench.RESULTS_FOLDER)):
        say(f"{program.program}: {dimension}")
        keep(_vbench_verdict(suite, program.judge(out, dimension)))


def _verdict(suite: Suite, prompts: Path, items: Sequence[suites.SuiteItem], out: Path) -> Verdict:
    if suite.is_vbench:
        return _vbench_verdict(suite, vbench.read_dimensions(out / vbench.RESULTS_FOLDER))
    geneval, answers = out / images_of.GENEVAL_RESULTS, out / images_of.DSG_ANSWERS
    path = geneval if suite.name == "geneval" else answers
    judge = f"the code of its authors, {path.relative_to(out)}"
    if not path.exists():
        return Verdict(judge=judge, missing=(images_of.OVERALL,))
    if suite.name == "geneval":
        found = images_of.geneval_scores(path, [item.path for item in items])
    else:
        found = images_of.dsg_scores(path, prompts)
    return Verdict(
        judge=judge,
        found={name: value for name, value in found.items() if name != images_of.OVERALL},
        scores={images_of.OVERALL: found[images_of.OVERALL]},
    )


def _vbench_verdict(suite: Suite, found: Mapping[str, float]) -> Verdict:
    """Camera motion is told and no part of a score, as in the paper."""
    scores: dict[str, float] = {}
    if suite.name == "vbench" and found.keys() >= set(DIMENSIONS):
        of = vbench_scores(found)
        scores = {"quality": of.quality, "semantic": of.semantic, "total": of.total}
    if suite.name == "vbench_i2v" and found.keys() >= {*I2V, *QUALITY}:
        views = vbench_i2v_scores(found)
        scores = {"quality": views.quality, "i2v": views.i2v, "total": views.total}
    return Verdict(
        judge=vbench.UNKNOWN_VERSION if suite.program is None else suite.program.version,
        found=found,
        scores=scores,
        missing=tuple(_missing(suite, found)),
    )


def _missing(suite: Suite, found: Mapping[str, float]) -> list[str]:
    """Flickering comes last: the filter before it needs a network that `dynamic_degree` fetches."""
    wanted = DIMENSIONS if suite.name == "vbench" else (*I2V, CAMERA_MOTION, *QUALITY)
    asked = [name for name in wanted if not suite.dimensions or name in suite.dimensions]
    left = [name for name in asked if name not in found]
    return sorted(left, key=lambda name: name == vbench.FLICKER)


def _what_to_do(suite: Suite, prompts: Path, out: Path, missing: Sequence[str]) -> str:
    again = "then run this command again for the scores"
    if suite.name == "vbench":
        lines = [shlex.join(["vbench", *c]) for name in missing for c in vbench.commands(name)]
        lines = [f"cd {shlex.quote(str(out))}", *lines]
        return "\n".join(
            ["the videos are made; where the package vbench and a GPU are:", *lines, again]
        )
    words: list[str | Path]
    if suite.name == "vbench_i2v":
        words = ["evaluate_i2v.py", "--videos_path", out / VIDEOS]
        words += ["--output_path", out / vbench.RESULTS_FOLDER, "--full_json_dir", prompts]
        words += ["--ratio", suite.images.name if suite.images else "1-1", "--dimension", *missing]
    elif suite.name == "geneval":
        words = ["evaluation/evaluate_images.py", out / IMAGES]
        words += ["--outfile", out / images_of.GENEVAL_RESULTS, "--model-path", "MODELS"]
    else:
        return (
            f"the images are in {out / IMAGES}, ITEM_ID.png; write the answers of a network to the questions of {prompts} into "
            f"{out / images_of.DSG_ANSWERS}, with columns item_id, question_id and answer as in vqa_answers_release, {again}"
        )
    line = shlex.join(["python", *map(str, words)])
    return f"the files are made; in the repository of the authors:\n{line}\n{again}"
