"""A table of the paper at a small size: each row is trained, judged, and set beside the paper's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.evaluate import EvaluationPlan, Judges, evaluate_run
from training.evaluation.generation import Sampling, Task
from training.evaluation.results import EvaluationResult
from training.evaluation.tables import TABLES, Table, flops_of
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
    table = table_of(plan.table)
    rows = list(table.rows_for(plan.base))
    found: dict[tuple[str, Task], EvaluationResult] = {}
    for number, row in enumerate(rows):
        folder, config = out / f"row-{number}", row_config(plan, row)
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
    write_whole(path, _markdown(plan, table, found).encode())
    return path


def table_of(name: str) -> Table:
    """A table of the paper.

    Raises:
        EvaluationError: there is no such table.
    """
    if name not in TABLES:
        raise EvaluationError(f"table {name} cannot be run; valid: {', '.join(TABLES)}")
    return TABLES[name]


def row_config(plan: AblationPlan, row: str) -> TrainConfig:
    """The run of one row at the budget.

    Raises:
        EvaluationError: the base lacks a stage that the row starts from.
    """
    try:
        return table_of(plan.table).rows[row](plan.base, plan.budget_steps)
    except IndexError as error:
        raise EvaluationError(
            f"{plan.base.name} has no stages for table {plan.table}; take a recipe such as {TABLES[plan.table].recipe}"
        ) from error


def _markdown(
    plan: AblationPlan, table: Table, found: Mapping[tuple[str, Task], EvaluationResult]
) -> str:
    names: list[tuple[Task, str]] = list(
        dict.fromkeys((t, m.name) for (_, t), r in found.items() for m in r.metrics)
    )
    head = ["Row", *(f"{task} {name}" for task, name in names)]
    head += [f"paper: {column}" for column in table.columns]
    if table.flops:
        head += ["operations", "paper: operations"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in table.rows_for(plan.base):
        ours = [_value(found.get((row, task)), name) for task, name in names]
        cells = [row, *ours, *table.paper[row]]
        if table.flops:
            cells += [f"{flops_of(row_config(plan, row)):.3g}", f"{table.flops[row]:.2f}e21"]
        lines.append(f"| {' | '.join(cells)} |")
    one = next(iter(found.values()))
    backends = dict.fromkeys(f"{m.name}: {m.backend}" for r in found.values() for m in r.metrics)
    seen = "the shards that the runs were trained on" if one.was_trained_on else "other shards"
    of = "the last stage of the first row" if table.flops else "each stage"
    left_out = [row for row in table.rows if row not in table.rows_for(plan.base)]
    lines += [
        "",
        *(
            [f"Not run, since the embedded encoders have no other: {', '.join(left_out)}.", ""]
            if left_out
            else []
        ),
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
    return f"# Table {plan.table} at small scale\n\n" + "\n".join(lines) + "\n"


def _value(result: EvaluationResult | None, name: str) -> str:
    values = [m.value for m in result.metrics if m.name == name] if result else []
    return f"{values[0]:.3f}" if values else "/"
