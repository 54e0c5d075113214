"""What each stage of a run makes beside the real clips that it was not trained on: the page docs/gallery.md.

    python -m benchmarks.gallery --run RUN --dataset DATASET --application RUN DATASET --docs docs

RUN was trained with a validation, such as `stiv train --recipe stiv_tiny_96`, and DATASET holds clips of Big Buck Bunny alone, whose
licence allows the pictures. Each application is a run of `v2v_tiny_64`, `tup_tiny_64`, `long_video_tiny_64`, or of the sets of
benchmarks/small_sets.py. Pictures that the same weights made are taken as they are.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from benchmarks.gallery_applications import application_sections
from orchestration.judges import open_judges
from training.config import TrainConfig
from training.evaluation.evaluate import SHEET_NAME, EvaluationPlan, Task, evaluate_run
from training.evaluation.generation import Sampling
from training.evaluation.results import EvaluationResult
from training.run_directory import RunDirectory
from training.telemetry import read_steps

_HEAD = """# Gallery

Each pair of rows shows four frames of a made video and, below it, of the real clip of the same caption. The clips were held out from
training. Made on two CPU cores by `python -m benchmarks.gallery` from a run of `{name}`: {data}. At this size the
model learns to keep a given frame and the colours and layout around it, under blocky noise; from text alone it makes coloured texture.
The applications at the end are runs of 100 to 400 steps each; all eight frames are shown there. Views are of meshes that ship with
the package pybullet (`benchmarks/small_sets.py`), classes are the categories that the data engine found.

{clips}

## The chain

| stage | from | steps | minutes | held-out loss, first to last |
|---|---|---:|---:|---|
{rows}
"""
_CREDIT = """
Frames of Big Buck Bunny, (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, licensed under Creative Commons
Attribution 3.0.
"""


def chain_row(run: RunDirectory, config: TrainConfig, stage: str) -> str:
    result = run.stage(stage).result()
    assert result is not None, "the run is finished"
    losses = [line["loss"] for line in read_steps(run.stage(stage).validation)]
    fell = f"{losses[0]:.3f} to {losses[-1]:.3f}" if losses else "not measured"
    start = " and ".join(config.starts_of(stage)) or "fresh weights"
    return f"| {stage} | {start} | {result.num_steps} | {result.seconds / 60:.1f} | {fell} |"


def tasks_of(config: TrainConfig, stage: str) -> list[Task]:
    settings = config.stages[stage]
    if settings.task == "t2i":
        return ["t2i"]
    return ["t2v", "ti2v"] if settings.task == "stiv" else ["t2v"]


def section(result: EvaluationResult, stage: str, task: Task, picture: str) -> str:
    numbers = ", ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
    return f"## {stage}, {task}\n\n![{stage}, {task}]({picture})\n\n{result.num_samples} clips: {numbers}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--application", nargs=2, action="append", default=[], metavar=("RUN", "DATASET")
    )
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=4)
    parser.add_argument("--steps", type=int, help="sampling steps; default: of the recipe")
    arguments = parser.parse_args()
    run = RunDirectory(arguments.run)
    config = run.load_config()
    judges = open_judges(["embedded"], None)
    sections: list[str] = []
    for stage in config.stages:
        for task in tasks_of(config, stage):
            sampling = Sampling(stage=stage, num_sampling_steps=arguments.steps)
            plan = EvaluationPlan(
                task=task, num_samples=arguments.num_samples, sampling=sampling, held_out=True
            )
            out = run.path / stage / "gallery" / task
            result = evaluate_run(run.path, [arguments.dataset], out, plan, judges)
            picture = Path("pictures") / f"gallery-{stage}-{task}.jpg"
            with Image.open(out / SHEET_NAME) as sheet:
                sheet.convert("RGB").save(arguments.docs / picture, quality=80)
            sections.append(section(result, stage, task, str(picture)))
            sys.stderr.write(f"{stage} {task}\n")
    for run_dir, dataset in arguments.application:
        sections += application_sections(Path(run_dir), dataset, arguments.docs, judges)
        sys.stderr.write(f"{run_dir}\n")
    done = [result for stage in config.stages if (result := run.stage(stage).result())]
    head = _HEAD.format(
        name=config.name,
        data=f"{done[-1].num_clips} clips of the sample videos",
        clips=_CREDIT.strip(),
        rows="\n".join(chain_row(run, config, stage) for stage in config.stages),
    )
    (arguments.docs / "gallery.md").write_text(head + "\n" + "\n".join(sections))


if __name__ == "__main__":
    main()
