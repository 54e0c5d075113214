"""The commands that judge a run: registered on the app of `orchestration.cli`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from orchestration.progress import ProgressReporter, progress_reporter
from orchestration.ray_session import LOCAL, ray_session
from training.evaluation.vbench import TIMEOUT_S, VBench, found_program

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.evaluation.clips import Format

console = Console(soft_wrap=True)

FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        metavar="embedded|videomae:ID_OR_FOLDER|i3d:FILE|c3d:FILE|inception-2015:FILE|inception:FILE",
        help="Networks of Frechet distances and Inception Scores; repeatable. Only published ones give FVD and FID.",
    ),
]
LpipsOption = Annotated[
    Path | None,
    typer.Option(
        "--lpips",
        help="LPIPS too: a file with the AlexNet of torchvision, alexnet-owt-7be5be79.pth.",
    ),
]
ClipOption = Annotated[
    str | None,
    typer.Option(
        "--clip", metavar="MODEL/WEIGHTS", help="open_clip model and tag or file; default: ConSE."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to an app."""
    app.command()(evaluate)
    app.command()(ablate)


def evaluate(
    out: Annotated[Path, typer.Option("--out", help="Folder of the videos and the result.")],
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="Clips that the run was not trained on; repeatable."),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the training run.")] = None,
    suite: Annotated[
        Literal[
            "clips",
            "vbench",
            "vbench_i2v",
            "geneval",
            "dsg",
            "msrvtt",
            "msrvtt_prediction",
            "msrvtt_upsampling",
            "msrvtt_upsampling_no_text",
            "moviegen",
            "moviegen_prediction",
            "ucf101",
            "gso",
            "coco",
        ],
        typer.Option(
            "--suite",
            help="Clips of a data set; or the prompts of a benchmark; or a protocol of the paper on its data.",
        ),
    ] = "clips",
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="List of the suite: VBench_full_info.json (default: of the package vbench), vbench2_i2v_full_info.json, "
            "evaluation_metadata.jsonl of GenEval, dsg-1k-anns.csv.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Of VBench-I2V: its folder of one aspect ratio, crop/1-1."),
    ] = None,
    dimensions: Annotated[
        list[str] | None,
        typer.Option("--dimension", help="Of VBench: only the prompts of these; repeatable."),
    ] = None,
    vbench: Annotated[
        str | None,
        typer.Option(
            "--vbench",
            metavar="PROGRAM",
            help="Judges the suite vbench; its packages are old, so that it may lie in another environment. Default: "
            "`vbench` on PATH; without one, the commands are printed.",
        ),
    ] = None,
    vbench_timeout_s: Annotated[
        float,
        typer.Option("--vbench-timeout", min=1, help="Seconds that it may take for one dimension."),
    ] = TIMEOUT_S,
    videos: Annotated[
        Path | None, typer.Option("--videos", help="Or: a folder of videos CLIP_ID.mp4.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Default: the last one that can do the task.")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Only clips that the validation of the run held out."),
    ] = False,
    task: Annotated[
        Literal["t2i", "t2v", "ti2v", "prediction", "upsampling", "interpolation", "multi_view"],
        typer.Option(
            "--task",
            help="Besides text are given: ti2v the first frame of the clip, prediction the first four, upsampling every "
            "second one, interpolation the first and the last; multi_view the first view. A protocol has its own.",
        ),
    ] = "t2v",
    text: Annotated[
        bool,
        typer.Option(
            "--text/--no-text", help="Make videos from given frames with or without text."
        ),
    ] = True,
    num_samples: Annotated[
        int | None,
        typer.Option("--num-samples", min=1, help="Default: 64, or as many as the protocol has."),
    ] = None,
    features: FeaturesOption = None,
    lpips: LpipsOption = None,
    clip_model: ClipOption = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option("--guidance-scale")] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", min=2)] = None,
    stride: Annotated[int | None, typer.Option("--stride", min=1)] = None,
    height: Annotated[int | None, typer.Option("--height", min=16)] = None,
    width: Annotated[int | None, typer.Option("--width", min=16)] = None,
) -> None:
    """Judge the videos of a run against real clips: result.json, result.md and a contact sheet."""
    from orchestration.judges import open_judges
    from orchestration.suites import Suite, run_suite
    from training.evaluation.evaluate import EvaluationPlan, evaluate_run, evaluate_videos
    from training.evaluation.generation import Sampling
    from training.evaluation.protocols import PROTOCOLS
    from training.evaluation.results import markdown

    sampling = Sampling(
        seed=seed, num_sampling_steps=steps, guidance_scale=guidance_scale, stage=stage
    )
    protocol = PROTOCOLS.get(suite)
    if suite != "clips" and protocol is None:
        if run is None:
            raise typer.BadParameter(f"--suite {suite} needs --run")
        program = vbench or found_program()
        asked = Suite(
            name=suite,
            prompts=prompts,
            dimensions=tuple(dimensions or ()),
            images=images,
            program=VBench(program=program, timeout_s=vbench_timeout_s) if program else None,
        )
        with progress_reporter(console) as reporter:
            run_suite(run, out, asked, sampling, partial(_show, reporter, suite, "files"), _say)
        return
    if not datasets or (run is None) == (videos is None):
        raise typer.BadParameter("--dataset is needed, and either --run or --videos")
    if held_out and run is None:
        raise typer.BadParameter("--held-out needs --run")
    plan = EvaluationPlan(
        task=task,
        num_samples=num_samples or 64,
        sampling=sampling,
        format=_format(num_frames, stride, height, width),
        held_out=held_out,
        with_text=text,
    )
    if protocol is not None:
        protocol.check(suite, features or [], clip_model, lpips)
        plan = protocol.applied(suite, plan, num_samples)
    judges = open_judges(features or ["embedded"], clip_model, lpips)
    if videos is not None:
        result = evaluate_videos(videos, datasets, out, plan, judges)
    else:
        assert run is not None
        with progress_reporter(console) as reporter:
            show = partial(_show, reporter, "evaluate", "videos")
            result = evaluate_run(run, datasets, out, plan, judges, show)
    _say(markdown(result))
    _say(f"result: {out}")


def _format(
    num_frames: int | None, stride: int | None, height: int | None, width: int | None
) -> "Format | None":
    from training.evaluation.clips import Format

    if num_frames and stride and height and width:
        return Format(num_frames=num_frames, stride=stride, height_px=height, width_px=width)
    if num_frames or stride or height or width:
        raise typer.BadParameter("--num-frames, --stride, --height and --width go together")
    return None


def _show(reporter: ProgressReporter, step: str, unit: str, done: int, total: int) -> None:
    reporter.update(step, done, total, unit)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


def ablate(
    table: Annotated[
        str,
        typer.Option(
            "--table",
            help="Of the paper: 2, 3, 4, 6a, 6b, 6c; 13 and 14 are 6b and 6c, whose operations they print.",
        ),
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="Clips to train on.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the rows and the table.")],
    held_out: Annotated[
        str | None,
        typer.Option("--held-out", help="Clips to judge by; default: those of --dataset."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="The run that rows change; default: one of tiny size."),
    ] = None,
    budget_steps: Annotated[
        int,
        typer.Option(
            "--budget-steps",
            min=1,
            help="Of each stage; in tables 6b and 6c, whose rows compute equally much, of the last stage of the first row.",
        ),
    ] = 100,
    num_samples: Annotated[int, typer.Option("--num-samples", min=2)] = 16,
    features: FeaturesOption = None,
    lpips: LpipsOption = None,
    clip_model: ClipOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the videos.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps.")] = None,
    ray_address: Annotated[str, typer.Option("--ray-address", help="host:port of Ray.")] = LOCAL,
) -> None:
    """Train and judge the rows of a table of the paper; run again, it goes on where it was."""
    from orchestration.judges import open_judges
    from orchestration.recipe import resolve
    from training.evaluation.ablate import AblationPlan, row_configs, table_of
    from training.evaluation.ablate import ablate as run_table
    from training.evaluation.generation import Sampling
    from training.recipes import RECIPES
    from training.streaming.shards import fingerprint_of

    plan = AblationPlan(
        table=table,
        base=resolve(RECIPES, recipe or table_of(table).recipe, []),
        budget_steps=budget_steps,
        num_samples=num_samples,
        sampling=Sampling(seed=seed, num_sampling_steps=steps),
    )
    row_configs(plan)  # what cannot be trained is said before Ray starts
    for name in (dataset, held_out or dataset):
        fingerprint_of(name, memory=None)
    judges = open_judges(features or ["embedded"], clip_model, lpips)
    with ray_session(ray_address), progress_reporter(console) as reporter:
        from training.launch import fit

        def show(stage: str, step: int, num_steps: int, loss: float) -> None:
            reporter.update(stage, step, num_steps, f"steps, loss {loss:.4f}")

        def train(config: "TrainConfig", run: Path) -> None:
            fit(config, [dataset], run, resume=True, on_progress=show)

        def tell(row: str, what: str) -> None:
            console.print(f"{row}: {what}", highlight=False, markup=False)

        path = run_table(plan, held_out or dataset, out, train, judges, tell)
    console.print(path.read_text(), highlight=False, markup=False)
