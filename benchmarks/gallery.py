"""What each stage of a run makes beside the real clips that it was not trained on: the page docs/gallery.md.

    python -m benchmarks.gallery --run RUN DATASET --application RUN DATASET --docs docs

Sections that are not made anew stay as they are, so `--application RUN DATASET --docs docs` alone replaces those of one
application. Each run was trained with a validation, as the recipes of this size are, and DATASET holds clips of Big Buck Bunny
alone, whose licence allows the pictures. Pictures that the same weights made are taken as they are. The runs:

    stiv train --recipe stiv_tiny_96 --dataset datasets/samples --run runs/chain
    stiv train --recipe v2v_tiny_64 --dataset datasets/samples --run runs/v2v
    stiv train --recipe tup_tiny_64 --dataset datasets/samples --run runs/tup --from-run runs/v2v
    stiv train --recipe long_video_tiny_64 --dataset datasets/samples --run runs/long --from-run runs/v2v

and those of `multi_view_tiny_80` and `class_to_video_tiny_48` on the sets of benchmarks/small_sets.py. The chain of the page is
longer than its recipe: `stages.STAGE.num_steps` are those of its table, with `ema_decay=0.99` for those of 300 and more.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.gallery_applications import application_sections
from orchestration.judges import open_judges
from training.branch import Origin
from training.config import TrainConfig
from training.evaluation.evaluate import SHEET_NAME, EvaluationPlan, Judges, Task, evaluate_run
from training.evaluation.generation import Sampling
from training.evaluation.results import EvaluationResult
from training.run_directory import RunDirectory, StageDirectory
from training.telemetry import read_steps

_HEAD = """# Gallery

Each pair of rows shows four frames of a made video and, below it, of the real clip of the same caption. The clips were held out from
training. Made on two CPU cores by `python -m benchmarks.gallery` from small runs on the sample videos. Given a frame, the model
keeps it and goes on from it: what moves blurs or breaks into blocks, what stands still stays. From text alone, after so few
steps, it makes the colours of the film in blocks, and follows no caption.

The applications at the end show their frames and play them, above what was made and below the real clips. Given frames go
through the sampler unchanged: behind the autoencoder they equal the input bit for bit, which is written as 100 dB and checked in
`tests/training/test_applications.py` and its neighbours. What a section says of the file or the picture adds the losses of the
autoencoder and of the codec. Views are of meshes that ship with the package pybullet (`benchmarks/small_sets.py`), classes are the
categories that the data engine found.

Frames of Big Buck Bunny, (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, licensed under Creative Commons
Attribution 3.0.
"""
_CHAIN = """## The chain

A run of `{name}` on {num_clips} clips, with the steps of this table.

| stage | from | steps | minutes | held-out loss, first to last |
|---|---|---:|---:|---|
{rows}
"""


def merged(page: str, made: Sequence[str]) -> str:
    """The page with these sections in place of those of the same title, and new ones at its end; its head is ours."""
    sections = {_title(section): section for section in _sections(page)}
    sections |= {_title(section): section for section in made}
    return "\n".join([_HEAD, *(section.strip() + "\n" for section in sections.values())])


def _sections(page: str) -> list[str]:
    return [f"## {section}" for section in page.split("\n## ")[1:]]


def _title(section: str) -> str:
    return section.splitlines()[0]


def chain_row(run: RunDirectory, config: TrainConfig, stage: str) -> str:
    result = run.stage(stage).result()
    assert result is not None, "the run is finished"
    losses = [line["loss"] for line in read_steps(_trained(run.stage(stage)).validation)]
    fell = f"{losses[0]:.3f} to {losses[-1]:.3f}" if losses else "not measured"
    start = " and ".join(config.starts_of(stage)) or "fresh weights"
    return f"| {stage} | {start} | {result.num_steps} | {result.seconds / 60:.1f} | {fell} |"


def _trained(stage: StageDirectory) -> StageDirectory:
    """Where it was trained: a stage that was taken over from another run has its curves there."""
    if not stage.origin.exists():
        return stage
    origin = Origin(**json.loads(stage.origin.read_bytes()))
    return _trained(RunDirectory(Path(origin.run)).stage(origin.stage))


def tasks_of(config: TrainConfig, stage: str) -> list[Task]:
    settings = config.stages[stage]
    if settings.task == "t2i":
        return ["t2i"]
    return ["t2v", "ti2v"] if settings.task == "stiv" else ["t2v"]


def section(result: EvaluationResult, stage: str, task: Task, picture: str) -> str:
    numbers = ", ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
    return f"## {stage}, {task}\n\n![{stage}, {task}]({picture})\n\n{result.num_samples} clips: {numbers}\n"


def chain_sections(arguments: argparse.Namespace, judges: Judges) -> list[str]:
    """The table of the chain, and a section for each of its stages and tasks."""
    run, dataset = RunDirectory(Path(arguments.run[0])), arguments.run[1]
    config = run.load_config()
    done = [result for stage in config.stages if (result := run.stage(stage).result())]
    rows = "\n".join(chain_row(run, config, stage) for stage in config.stages)
    sections = [_CHAIN.format(name=config.name, num_clips=done[-1].num_clips, rows=rows)]
    for stage in config.stages:
        for task in tasks_of(config, stage):
            sampling = Sampling(stage=stage, num_sampling_steps=arguments.steps)
            plan = EvaluationPlan(
                task=task, num_samples=arguments.num_samples, sampling=sampling, held_out=True
            )
            out = run.path / stage / "gallery" / task
            result = evaluate_run(run.path, [dataset], out, plan, judges)
            picture = Path("pictures") / f"gallery-{stage}-{task}.jpg"
            with Image.open(out / SHEET_NAME) as sheet:
                sheet.convert("RGB").save(arguments.docs / picture, quality=80)
            sections.append(section(result, stage, task, str(picture)))
            sys.stderr.write(f"{stage} {task}\n")
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=2, metavar=("RUN", "DATASET"), help="the chain")
    parser.add_argument(
        "--application", nargs=2, action="append", default=[], metavar=("RUN", "DATASET")
    )
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=4)
    parser.add_argument("--steps", type=int, help="sampling steps; default: of the recipe")
    arguments = parser.parse_args()
    judges, sections = open_judges(["embedded"], None), list[str]()
    if arguments.run is not None:
        sections += chain_sections(arguments, judges)
    for run_dir, dataset in arguments.application:
        sections += application_sections(Path(run_dir), dataset, arguments.docs, judges)
        sys.stderr.write(f"{run_dir}\n")
    page = arguments.docs / "gallery.md"
    page.write_text(merged(page.read_text() if page.exists() else "", sections))


if __name__ == "__main__":
    main()
