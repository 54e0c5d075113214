"""A table of the paper at a small size: each row is trained, judged, and set beside the paper's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from training.config import StageConfig, TrainConfig
from training.errors import EvaluationError
from training.evaluation.evaluate import EvaluationPlan, evaluate_run
from training.evaluation.generation import Sampling, Task
from training.evaluation.judging import Judges
from training.evaluation.results import EvaluationResult
from training.evaluation.tables import OPERATIONS, TABLES, Table, flops_of, stage_name
from training.streaming.storage import write_whole

TABLE_NAME = "table.md"
TrainRow = Callable[[TrainConfig, Path], None]
"""Trains a config into a run directory, and leaves what is finished."""
OnRow = Callable[[str, str], None]
"""Is told the row, and what is done with it."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """Which table, from which base, with how much work for each row."""

    table: str
    base: TrainConfig
    budget_steps: int
    """Of each stage; in tables 6b and 6c, whose rows compute equally much, of the last stage of the first row."""
    num_samples: int
    sampling: Sampling


def ablate(
    plan: AblationPlan,
    dataset: str,
    out: Path,
    train: TrainRow,
    judges: Judges,
    on_row: OnRow = lambda _row, _what: None,
) -> Path:
    """Train and judge every row, and return the table. Rows and videos that are done are left.

    Raises:
        EvaluationError: there is no such table, or too few clips.
        TrainError: a row cannot be trained, or `out` holds a row with other settings.
    """
    table, configs = table_of(plan.table), row_configs(plan)
    found: dict[tuple[str, Task], EvaluationResult] = {}
    for number, (row, config) in enumerate(configs.items()):
        folder = out / f"row-{number}"
        on_row(row, "train")
        train(config, folder / "run")
        for task in table.tasks:
            if task == "ti2v" and not any(s.task == "stiv" for s in config.stages.values()):
                continue
            on_row(row, f"judge {task}")
            judged = EvaluationPlan(
                suite=f"table {plan.table}, {row}",
                task=task,
                num_samples=plan.num_samples,
                sampling=plan.sampling,
            )
            found[row, task] = evaluate_run(
                folder / "run", [dataset], folder / task, judged, judges
            )
    path = out / TABLE_NAME
    write_whole(path, table_markdown(plan, table, configs, found).encode())
    return path


def table_of(name: str) -> Table:
    """A table of the paper; 13 and 14 are those whose operations they print.

    Raises:
        EvaluationError: there is no such table.
    """
    name = _rows_of(name)
    if name not in TABLES:
        valid = ", ".join([*TABLES, *OPERATIONS.values()])
        raise EvaluationError(f"table {name} cannot be run; valid: {valid}")
    return TABLES[name]


def row_configs(plan: AblationPlan) -> dict[str, TrainConfig]:
    """The run of every row at the budget, before any of them is trained.

    Raises:
        EvaluationError: there is no such table, or the base lacks stages that it needs.
    """
    table = table_of(plan.table)
    for task in table.tasks:
        if not any(_can_do(stage, task) for stage in plan.base.stages.values()):
            raise EvaluationError(_unfit(plan, f"no stage of it is trained for {task}"))
    return {row: row_config(plan, row) for row in table.rows_for(plan.base)}


def row_config(plan: AblationPlan, row: str) -> TrainConfig:
    """The run of one row at the budget.

    Raises:
        EvaluationError: the base lacks a stage that the row starts from, or the row does not fit it.
    """
    try:
        return table_of(plan.table).rows[row](plan.base, plan.budget_steps)
    except IndexError as error:
        raise EvaluationError(_unfit(plan, f"row {row!r} needs more stages")) from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise EvaluationError(_unfit(plan, f"row {row!r}: {reason}")) from error
    except ValueError as error:
        raise EvaluationError(_unfit(plan, f"row {row!r}: {error}")) from error


def _rows_of(name: str) -> str:
    return next((rows for rows, printed in OPERATIONS.items() if printed == name), name)


def _can_do(stage: StageConfig, task: Task) -> bool:
    if task == "ti2v":
        return stage.task == "stiv" and "first" in stage.given
    return stage.task == task


def _unfit(plan: AblationPlan, why: str) -> str:
    recipe = table_of(plan.table).recipe
    return (
        f"{plan.base.name} does not fit table {plan.table}: {why}; take a recipe such as {recipe}"
    )


def table_markdown(
    plan: AblationPlan,
    table: Table,
    configs: Mapping[str, TrainConfig],
    found: Mapping[tuple[str, Task], EvaluationResult],
) -> str:
    names: list[tuple[Task, str]] = list(
        dict.fromkeys((t, m.name) for (_, t), r in found.items() for m in r.metrics)
    )
    head = ["Row", *(f"{task} {name}" for task, name in names)]
    head += [f"paper: {column}" for column in table.columns]
    rows = [
        [row, *(_value(found.get((row, task)), name) for task, name in names), *table.paper[row]]
        for row in configs
    ]
    one = next(iter(found.values()))
    backends = dict.fromkeys(f"{m.name}: {m.backend}" for r in found.values() for m in r.metrics)
    seen = "the shards that the runs were trained on" if one.was_trained_on else "other shards"
    of = "the last stage of the first row" if table.starts else "each stage"
    left_out = [row for row in table.rows if row not in configs]
    notes = list(table.notes)
    if left_out:
        notes.append(f"Not run, since the embedded encoders have no other: {', '.join(left_out)}.")
    rows_of = _rows_of(plan.table)
    title = plan.table if rows_of == plan.table else f"{plan.table}, the rows of table {rows_of},"
    lines = [f"# Table {title} at small scale", "", *_lines(head, rows), ""]
    if table.starts:
        lines += [*_operations(plan, table, configs), ""]
    lines += [
        *(line for note in notes for line in (note, "")),
        f"Base `{plan.base.name}`, {plan.budget_steps} steps of {of}, {plan.num_samples} clips of {seen}, "
        f"{one.num_frames} frames, {one.fps:g} fps, {one.width_px}x{one.height_px} px, "
        f"{one.num_sampling_steps} sampling steps, one seed ({plan.sampling.seed}).",
        "",
        "The scale is not the paper's, which trained XL and M models for hundreds of thousands of steps and judged "
        "them with VBench: the columns measure different things, and no difference between rows of one seed is "
        "shown to be more than chance.",
        "",
        *(f"- {backend}" for backend in backends),
    ]
    return "\n".join(lines) + "\n"


def _operations(plan: AblationPlan, table: Table, configs: Mapping[str, TrainConfig]) -> list[str]:
    """What each stage of a row computes, beside the paper's in 1e21 (appendix G)."""
    most = max(map(len, table.starts.values()))
    numbers = [*map(str, range(1, most + 1)), "total"]
    head = ["Row", "Stages", *numbers, *(f"paper: {number}" for number in numbers)]
    rows: list[list[str]] = []
    for row, config in configs.items():
        ours = flops_of(config)
        paper = {stage_name(plan.base, s.place): s.flops for s in table.starts[row]}
        none = ["/"] * (most - len(ours))
        counted = [*(f"{ours[name]:.3g}" for name in ours), *none, f"{sum(ours.values()):.3g}"]
        printed = [*(f"{paper[name]:g}e21" for name in ours), *none]
        total = f"{sum(paper.values()):.2f}e21"
        rows.append([row, ", ".join(ours), *counted, *printed, total])
    title = f"Operations, beside table {OPERATIONS[_rows_of(plan.table)]} of the paper:"
    return [title, "", *_lines(head, rows)]


def _lines(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _value(result: EvaluationResult | None, name: str) -> str:
    values = [m.value for m in result.metrics if m.name == name] if result else []
    return f"{values[0]:.3f}" if values else "/"
