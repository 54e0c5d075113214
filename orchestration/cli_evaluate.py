"""The commands that judge a run: registered on the app of `orchestration.cli`."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from orchestration.progress import progress_reporter
from orchestration.ray_session import LOCAL, ray_session

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.evaluation.generation import Sampling

console = Console(soft_wrap=True)

FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        metavar="embedded|videomae:ID_OR_FOLDER|i3d:FILE|inception:FILE",
        help="Networks of the Frechet distances; repeatable. Only published ones give FVD and FID.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suite:
    """The options of a suite of prompts."""

    name: str
    prompts: Path | None
    dimensions: tuple[str, ...]
    images: Path | None

    def list_given(self) -> Path:
        if self.prompts is None:
            raise typer.BadParameter(f"--suite {self.name} needs --prompts")
        return self.prompts


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
    num_samples: Annotated[
        int | None,
        typer.Option("--num-samples", min=1, help="Default: 64, or as many as the protocol has."),
    ] = None,
    features: FeaturesOption = None,
    lpips: Annotated[
        Path | None,
        typer.Option(
            "--lpips",
            help="LPIPS too: a file with the AlexNet of torchvision, alexnet-owt-7be5be79.pth.",
        ),
    ] = None,
    clip_model: Annotated[
        str | None,
        typer.Option(
            "--clip",
            metavar="MODEL/WEIGHTS",
            help="open_clip model and tag or file; default: ConSE.",
        ),
    ] = None,
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
    from training.evaluation.clips import Format
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
        asked = _Suite(
            name=suite, prompts=prompts, dimensions=tuple(dimensions or ()), images=images
        )
        _make_suite(run, out, asked, sampling)
        return
    if not datasets or (run is None) == (videos is None):
        raise typer.BadParameter("--dataset is needed, and either --run or --videos")
    given = (num_frames, stride, height, width)
    if any(given) and not all(given):
        raise typer.BadParameter("--num-frames, --stride, --height and --width go together")
    wanted = None
    if num_frames and stride and height and width:
        wanted = Format(num_frames=num_frames, stride=stride, height_px=height, width_px=width)
    if held_out and run is None:
        raise typer.BadParameter("--held-out needs --run")
    if protocol is not None:
        protocol.check(suite, features or [], clip_model, lpips)
        task, num_samples = protocol.task, num_samples or protocol.num_samples
    plan = EvaluationPlan(
        suite=suite,
        task=task,
        num_samples=num_samples or 64,
        sampling=sampling,
        format=wanted,
        held_out=held_out,
    )
    judges = open_judges(features or ["embedded"], clip_model, lpips)
    if videos is not None:
        result = evaluate_videos(videos, datasets, out, plan, judges)
    else:
        assert run is not None
        with progress_reporter(console) as reporter:

            def show(done: int, total: int) -> None:
                reporter.update("evaluate", done, total, "videos")

            result = evaluate_run(run, datasets, out, plan, judges, show)
    console.print(markdown(result), highlight=False, markup=False)
    console.print(f"result: {out}", highlight=False, markup=False)


def _make_suite(run: Path, out: Path, asked: "_Suite", sampling: "Sampling") -> None:
    """Make the videos or images where the code of the suite's authors looks for them; with its results there, print the
    scores."""
    from training.evaluation import prompt_suites as suites

    folder = out / "videos" if asked.name.startswith("vbench") else out / "images"
    if asked.name == "geneval":
        items = suites.geneval_items(asked.list_given(), folder)
    elif asked.name == "dsg":
        items = suites.dsg_items(asked.list_given())
    else:
        if asked.name == "vbench_i2v" and asked.images is None:
            raise typer.BadParameter("--suite vbench_i2v needs --images")
        found = asked.list_given() if asked.images else suites.prompt_list(asked.prompts)
        prompts = suites.read_prompts(found, asked.dimensions)
        items = suites.vbench_items(prompts, asked.images)
    with progress_reporter(console) as reporter:

        def show(done: int, total: int) -> None:
            reporter.update(asked.name, done, total, folder.name)

        suites.make_suite(run, items, folder, sampling, show)
    if asked.name == "vbench":
        _score_vbench(out, suites.prompt_list(asked.prompts))
    elif asked.name == "vbench_i2v":
        _score_vbench_i2v(out)
    else:
        _say(f"{len(items)} images are in {folder}; the authors' code judges that folder")


def _score_vbench(out: Path, prompts: Path) -> None:
    from training.evaluation.prompt_suites import read_dimensions
    from training.evaluation.vbench_scores import DIMENSIONS, vbench_scores

    found = read_dimensions(out / "vbench")
    missing = [name for name in DIMENSIONS if name not in found]
    if missing:
        words = ["--videos_path", out / "videos", "--output_path", out / "vbench"]
        words += ["--full_json_dir", prompts, "--dimension", missing[0]]
        _say(
            f"the videos are made; dimensions still to be judged: {', '.join(missing)}\n"
            "for each of them, where the package vbench and a GPU are:\n"
            f"vbench evaluate {shlex.join(map(str, words))}\n"
            "then run this command again for the scores"
        )
        return
    scores = vbench_scores(found)
    _say(
        f"quality {100 * scores.quality:.1f}, semantic {100 * scores.semantic:.1f}, "
        f"total {100 * scores.total:.1f}"
    )


def _score_vbench_i2v(out: Path) -> None:
    from training.evaluation.prompt_suites import read_dimensions
    from training.evaluation.vbench_scores import I2V, QUALITY, vbench_i2v_scores

    found = read_dimensions(out / "vbench")
    missing = [name for name in (*I2V, *QUALITY) if name not in found]
    if missing:
        _say(
            f"the videos are made; dimensions still to be judged: {', '.join(missing)}\n"
            f"judge {out / 'videos'} with VBenchI2V of the authors' repository, results into {out / 'vbench'}, "
            "then run this command again for the scores"
        )
        return
    scores = vbench_i2v_scores(found)
    _say(
        f"quality {100 * scores.quality:.1f}, i2v {100 * scores.i2v:.1f}, total {100 * scores.total:.1f}"
    )


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


def ablate(
    table: Annotated[
        str,
        typer.Option(
            "--table",
            help="Of the paper: 2, 3, 4, 6a, 6b or 6c (with the operations of 13 and 14).",
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
    seed: Annotated[int, typer.Option("--seed", help="Of the videos.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps.")] = None,
    ray_address: Annotated[str, typer.Option("--ray-address", help="host:port of Ray.")] = LOCAL,
) -> None:
    """Train and judge the rows of a table of the paper; run again, it goes on where it was."""
    from orchestration.judges import open_judges
    from orchestration.recipe import resolve
    from training.evaluation.ablate import AblationPlan, table_of
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
    for name in (dataset, held_out or dataset):
        fingerprint_of(name, memory=None)
    judges = open_judges(features or ["embedded"], None)
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
