"""`stiv plan`: what a run needs of its GPUs; registered on the app of `orchestration.cli`."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from training.planning.plan import RunPlan

console = Console(soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command of this module to an app."""
    app.command()(plan)


def plan(
    recipe: Annotated[str, typer.Option("--recipe", help="Named run.")],
    gpu: Annotated[str, typer.Option("--gpu", help="Such as h200, a100-80gb or rtx4090.")],
    num_gpus: Annotated[int, typer.Option("--num-gpus", min=1)],
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage.")] = None,
    mfu: Annotated[
        float, typer.Option("--mfu", min=0.01, max=1.0, help="Share of the peak for the days.")
    ] = 0.4,
    text_tokens: Annotated[int, typer.Option("--text-tokens", min=1)] = 77,
    reserve_gib: Annotated[
        float | None,
        typer.Option(
            "--reserve-gib",
            min=0.0,
            help="Of each GPU, for CUDA, NCCL, gaps and encoders; default: a tenth, or more if these need it.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.FIELD=VALUE",
            help="Change one field; repeatable. A layout that is set, such as recompute, is not chosen.",
        ),
    ] = None,
) -> None:
    """Memory, micro-batches, sharding, recomputation and days of a run on GPUs that are not there yet."""
    from orchestration.progress import progress_reporter
    from orchestration.recipe import resolve
    from training.errors import PlanError
    from training.planning.gpus import gpu_of
    from training.planning.plan import POLICIES, Request, plan_run
    from training.recipes import RECIPES

    found = gpu_of(gpu)
    asked = overrides or []
    config = resolve(RECIPES, recipe, [*asked, f"num_workers={num_gpus}"])
    if stage is not None and stage not in config.stages:
        raise PlanError(f"there is no stage {stage}; the run has {', '.join(config.stages)}")
    request = Request(
        gpu=found,
        num_gpus=num_gpus,
        mfu=mfu,
        num_text_tokens=text_tokens,
        reserve_gib=reserve_gib,
        given=frozenset(_path(setting) for setting in asked),
    )
    with progress_reporter(console) as reporter:
        wanted = list(config.stages) if stage is None else [stage]
        seen: set[tuple[str, str]] = set()

        def show(name: str, policy: str) -> None:
            seen.add((name, policy))
            num_all = len(wanted) * len(POLICIES)
            reporter.update("measure", len(seen), num_all, f"stages and policies, {name} {policy}")

        result = plan_run(config, request, wanted, show)
    print_plan(console, result)
    words = ["--recipe", recipe]
    for setting in train_settings(asked, result):
        words += ["--set", setting]
    console.print(" ".join(shlex.quote(word) for word in words), highlight=False, markup=False)


def train_settings(asked: Sequence[str], result: "RunPlan") -> list[str]:
    """What was asked for, and what the plan says about the rest, for `stiv train`."""
    chosen = result.settings()
    paths = {_path(setting) for setting in chosen}
    return [*(setting for setting in asked if _path(setting) not in paths), *chosen]


def _path(setting: str) -> str:
    return setting.partition("=")[0].strip()


def print_plan(to: Console, result: "RunPlan") -> None:
    """The layout, a table of work, one of memory and one of activations."""
    from training.planning.plan import POLICIES, gib

    request, layout = result.request, result.layout
    to.print(
        f"{layout.num_gpus} x {request.gpu.name}: {gib(result.usable_bytes):.1f} of "
        f"{request.gpu.memory_gib:.1f} GiB usable, {request.gpu.peak_tflops:g} TFLOP/s "
        f"({request.gpu.source})\n"
        f"sharding {layout.sharding}, over {layout.num_shards} GPUs; recompute {layout.recompute}; "
        f"EMA {'in host memory' if layout.average_on_cpu else 'on the GPUs'}",
        highlight=False,
    )
    columns: tuple[str, ...] = ("stage", "parameters", "clips a step", "tokens a clip", "processed")
    columns += (
        "tokens a step",
        "PFLOP a step",
        "steps",
        "micro-batch",
        f"days at {request.mfu:.0%}",
    )
    work = [columns]
    work += [
        (
            stage.name,
            f"{stage.work.num_parameters / 1e6:,.0f}M",
            f"{stage.work.batch_size:,.0f}",
            f"{stage.work.tokens_per_sample:,.0f}",
            f"{stage.work.tokens_processed_per_sample:,.0f}",
            f"{stage.work.tokens_per_sample * stage.work.batch_size:,.0f}",
            f"{stage.work.flops_per_step / 1e15:,.2f}",
            f"{stage.work.num_steps:,}",
            f"{stage.chosen.micro_batch} of {stage.clips_per_gpu}",
            f"{stage.days:,.2f}",
        )
        for stage in result.stages
    ]
    _print_table(to, work)
    kinds = (
        "GiB a GPU",
        "weights",
        "gradients",
        "optimizer",
        "EMA",
        "activations",
        "in all",
    )
    held: list[tuple[str, ...]] = [(*kinds, *(f"{policy}*" for policy in POLICIES))]
    for stage in result.stages:
        needed = stage.chosen.memory
        parts = (needed.weights, needed.gradients, needed.optimizer, needed.average)
        row = [f"{gib(part):.1f}" for part in (*parts, needed.activations, needed.total)]
        for fit in stage.policies.values():
            clips = f"at {fit.micro_batch}" if fit.micro_batch else "at 1: too much"
            row.append(f"{gib(fit.memory.total):.1f} {clips}")
        held.append((stage.name, *row))
    _print_table(to, held)
    to.print("* in all, at the largest micro-batch that fits with each setting of recompute\n")
    kept: list[tuple[str, ...]] = [("GiB of activations", "micro-batch", *POLICIES)]
    kept += [
        (
            stage.name,
            f"{stage.chosen.micro_batch}",
            *(f"{gib(stage.activations[policy]):.1f}" for policy in POLICIES),
        )
        for stage in result.stages
    ]
    _print_table(to, kept)
    to.print(f"{result.days:,.2f} days in all. To train so:", highlight=False)


def _print_table(to: Console, rows: list[tuple[str, ...]]) -> None:
    """Plain columns: the same in a terminal and in a file."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        to.print("  ".join([first, *others]), highlight=False, markup=False)
    to.print()
