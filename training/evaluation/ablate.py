"""A table of the paper at a small size: each row is trained, judged, and set beside the paper's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.ablations import TABLE_3, TABLE_4, TABLE_6A, Overrides, with_overrides
from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.evaluate import EvaluationPlan, Judges, evaluate_run
from training.evaluation.generation import Sampling, Task
from training.evaluation.results import EvaluationResult
from training.streaming.storage import write_whole

TABLE_NAME = "table.md"
TrainRow = Callable[[TrainConfig, Path], None]
"""Trains a config into a run directory, and leaves what is finished."""
OnRow = Callable[[str, str], None]
"""Is told the row, and what is done with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows by name, and what the paper prints for them; a column that a row lacks is `/`."""

    rows: Mapping[str, Overrides]
    columns: tuple[str, ...]
    paper: Mapping[str, tuple[str, ...]]
    t2v_rows: tuple[str, ...]
    """Rows without a STIV stage."""
    tasks: tuple[Task, ...]


TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "3": Table(
            rows=TABLE_3,
            columns=("VBench-I2V I2V avg", "VBench-I2V avg"),
            paper={
                "CA": ("68.2", "73.0"),
                "CA+FFL": ("67.2", "72.0"),
                "CA+LP": ("72.3", "75.3"),
                "FR": ("75.8", "77.3"),
                "FR+CA": ("74.4", "77.1"),
                "FR+CA+LP": ("73.4", "75.6"),
                "FR+CA+LP+FFL": ("72.3", "75.3"),
            },
            t2v_rows=(),
            tasks=("ti2v",),
        ),
        "4": Table(
            rows={"T2V": {}, **TABLE_4},
            columns=("T2V Q", "T2V S", "T2V Total", "I2V I", "I2V Q", "I2V Total"),
            paper={
                "T2V": ("82.2", "77.0", "81.2", "/", "/", "/"),
                "STIV": ("74.6", "31.9", "66.1", "98.0", "82.1", "90.1"),
                "STIV-JIT": ("82.3", "74.1", "80.7", "97.6", "81.9", "89.8"),
            },
            t2v_rows=("T2V",),
            tasks=("t2v", "ti2v"),
        ),
        "6a": Table(
            rows=TABLE_6A,
            columns=("VBench Q", "VBench S", "VBench Total"),
            paper={
                "Base": ("80.19", "70.51", "78.25"),
                "temporal patch 1": ("80.92", "71.69", "79.07"),
                "temporal patch 4": ("79.72", "69.15", "77.61"),
                "causal temporal attention": ("74.59", "73.13", "74.30"),
                "+ temporal scale/shift/gate": ("80.32", "68.94", "78.04"),
                "+ temporal mask": ("77.58", "65.95", "75.25"),
                "- spatial mask": ("80.57", "70.31", "78.52"),
            },
            t2v_rows=tuple(TABLE_6A),
            tasks=("t2v",),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """Which table, from which base, with how much work for each row."""

    table: str
    base: TrainConfig
    budget_steps: int
    """Of each stage."""
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
    if plan.table not in TABLES:
        raise EvaluationError(f"table {plan.table} cannot be run; valid: {', '.join(TABLES)}")
    table = TABLES[plan.table]
    found: dict[tuple[str, Task], EvaluationResult] = {}
    for number, row in enumerate(table.rows):
        folder = out / f"row-{number}"
        on_row(row, "train")
        train(row_config(plan, row), folder / "run")
        for task in table.tasks:
            if task == "ti2v" and row in table.t2v_rows:
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


def row_config(plan: AblationPlan, row: str) -> TrainConfig:
    """The run of one row at the budget."""
    table = TABLES[plan.table]
    config = with_overrides(plan.base, table.rows[row])
    values = config.model_dump(mode="json")
    values["stages"] = {
        name: {**stage, "num_steps": plan.budget_steps}
        for name, stage in values["stages"].items()
        if stage["task"] != "stiv" or row not in table.t2v_rows
    }
    return TrainConfig.model_validate(values)


def _markdown(
    plan: AblationPlan, table: Table, found: Mapping[tuple[str, Task], EvaluationResult]
) -> str:
    names: list[tuple[Task, str]] = list(
        dict.fromkeys((t, m.name) for (_, t), r in found.items() for m in r.metrics)
    )
    head = ["Row", *(f"{task} {name}" for task, name in names)]
    head += [f"paper: {column}" for column in table.columns]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in table.rows:
        ours = [_value(found.get((row, task)), name) for task, name in names]
        lines.append(f"| {' | '.join([row, *ours, *table.paper[row]])} |")
    one = next(iter(found.values()))
    backends = dict.fromkeys(f"{m.name}: {m.backend}" for r in found.values() for m in r.metrics)
    seen = "the shards that the runs were trained on" if one.was_trained_on else "other shards"
    lines += [
        "",
        f"Base `{plan.base.name}`, {plan.budget_steps} steps of each stage, {plan.num_samples} clips of {seen}, "
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
