"""The tables of the paper that compare designs: their rows as runs, and what the paper prints for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from training.ablations import (
    TABLE_2,
    TABLE_2_ENCODERS,
    TABLE_3,
    TABLE_4,
    TABLE_6A,
    Overrides,
    cumulative,
    with_overrides,
    without_encoders,
)
from training.config import Task as StageTask
from training.config import TrainConfig
from training.evaluation.generation import Task
from training.planning.needs import stage_work

NUM_TEXT_TOKENS = 64
"""Of a caption, for counting operations."""

Place = tuple[StageTask, int]
"""A task, and the number of a stage among those of that task."""
RowConfig = Callable[[TrainConfig, int], TrainConfig]
"""The run of a row, from the run that rows change and a number of steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """One stage of a row of table 6b or 6c."""

    place: Place
    flops: float
    """In the paper, in 1e21 (tables 13 and 14)."""
    init_from: Place | None = None
    temporal_from: Place | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows by name, and what the paper prints for them; a column that a row lacks is `/`."""

    rows: Mapping[str, RowConfig]
    columns: tuple[str, ...]
    paper: Mapping[str, tuple[str, ...]]
    tasks: tuple[Task, ...]
    recipe: str = "demo_tiny"
    """The run that rows change at the size of two CPU cores."""
    encoder_rows: tuple[str, ...] = ()
    """Rows that change the frozen encoders, and cannot differ on the embedded ones."""
    starts: Mapping[str, tuple[Start, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """The stages of each row, where rows compute equally much from other starts."""
    notes: tuple[str, ...] = ()
    """What the table leaves out, or cannot show."""

    def rows_for(self, base: TrainConfig) -> dict[str, RowConfig]:
        """The rows that can be run from a base."""
        left_out = self.encoder_rows if _is_embedded(base) else ()
        return {name: row for name, row in self.rows.items() if name not in left_out}


IMAGES: Place = ("t2i", 0)
HIGH_IMAGES: Place = ("t2i", -1)
VIDEOS: Place = ("t2v", 0)
LAST: Place = ("t2v", -1)
_ALL: tuple[StageTask, ...] = ("t2i", "t2v", "stiv")


def changed(
    overrides: Overrides, base: TrainConfig, num_steps: int, tasks: Sequence[StageTask] = _ALL
) -> TrainConfig:
    """The base with other settings: each of its stages of these tasks for `num_steps`."""
    if _is_embedded(base):
        overrides = without_encoders(overrides)
    values = base.model_dump(mode="json")
    values["stages"] = {
        name: {**stage, "num_steps": num_steps}
        for name, stage in values["stages"].items()
        if stage["task"] in tasks
    }
    return with_overrides(TrainConfig.model_validate(values), overrides)


def started(
    starts: Sequence[Start],
    first_row: Sequence[Start],
    overrides: Overrides,
    base: TrainConfig,
    num_steps: int,
) -> TrainConfig:
    """Stages that start from each other in another way and compute as much in all.

    The last stage of the first row takes `num_steps`; what each stage has of the total is its share in the paper.
    """
    names = [stage_name(base, start.place) for start in starts]
    if len(set(names)) < len(names):
        raise ValueError(f"its stages {', '.join(names)} name one twice")
    chain = dict(zip(names, starts, strict=True))
    values = with_overrides(base, overrides).model_dump(mode="json")
    values["stages"] = {
        name: {**stage, **_sources(base, chain[name])}
        for name, stage in values["stages"].items()
        if name in chain
    }
    row = TrainConfig.model_validate(values)
    total = num_steps * _flops_per_step(base, stage_name(base, LAST))
    total *= sum(start.flops for start in first_row) / first_row[-1].flops
    whole = sum(start.flops for start in starts)
    for name, stage in values["stages"].items():
        share = chain[name].flops / whole
        stage["num_steps"] = max(1, round(share * total / _flops_per_step(row, name)))
    return TrainConfig.model_validate(values)


def flops_of(config: TrainConfig) -> dict[str, float]:
    """Of each of its stages."""
    return {
        name: stage.num_steps * _flops_per_step(config, name)
        for name, stage in config.stages.items()
    }


def _flops_per_step(config: TrainConfig, stage: str) -> float:
    return stage_work(config, stage, NUM_TEXT_TOKENS).flops_per_step


def _sources(base: TrainConfig, start: Start) -> dict[str, Any]:
    """`init_from` None would be the stage before: what starts from nothing is the first of its row."""
    return {
        "init_from": start.init_from and stage_name(base, start.init_from),
        "temporal_from": start.temporal_from and stage_name(base, start.temporal_from),
    }


def stage_name(base: TrainConfig, place: Place) -> str:
    """Raises:
    IndexError: there are not so many stages of that task.
    """
    task, number = place
    return [name for name, stage in base.stages.items() if stage.task == task][number]


def _is_embedded(base: TrainConfig) -> bool:
    return base.encoders.autoencoder_model is None


def _rows(
    table: Mapping[str, Overrides], tasks: Sequence[StageTask] = _ALL
) -> dict[str, RowConfig]:
    return {name: partial(changed, overrides, tasks=tasks) for name, overrides in table.items()}


def _started(rows: Mapping[str, tuple[Sequence[Start], Overrides]]) -> dict[str, RowConfig]:
    first, _ = next(iter(rows.values()))
    return {name: partial(started, starts, first, also) for name, (starts, also) in rows.items()}


_T2I = Start(place=IMAGES, flops=1.11)
_HIGH_T2I = Start(place=HIGH_IMAGES, flops=0.843, init_from=IMAGES)
_T2V = Start(place=VIDEOS, flops=2.05, init_from=IMAGES)
_FEW = Start(place=VIDEOS, flops=1.02, init_from=IMAGES)
_MANY = Start(place=LAST, flops=1.02, init_from=VIDEOS)

TABLE_6B: dict[str, tuple[tuple[Start, ...], Overrides]] = {
    "Scratch": ((Start(place=LAST, flops=5.93),), {}),
    "T2V-256": ((_T2I, _T2V, Start(place=LAST, flops=2.84, init_from=VIDEOS)), {}),
    "T2I-512": ((_T2I, _HIGH_T2I, Start(place=LAST, flops=4.02, init_from=HIGH_IMAGES)), {}),
    "Both": (
        (
            _T2I,
            _HIGH_T2I,
            _T2V,
            Start(place=LAST, flops=1.98, init_from=HIGH_IMAGES, temporal_from=VIDEOS),
        ),
        {},
    ),
}
"""T2V at high resolution, section 2.4; operations of table 13, where 8.43 is a misprint of 0.843."""

_EXTRAPOLATED = {"model.rotary_grid": None}
_SAME_STRIDE = {"stages.*.sampling_stride": None}

TABLE_6C: dict[str, tuple[tuple[Start, ...], Overrides]] = {
    "T2I": ((_T2I, Start(place=LAST, flops=2.05, init_from=IMAGES)), _EXTRAPOLATED | _SAME_STRIDE),
    "T2V, RoPE interpolation": ((_T2I, _FEW, _MANY), _SAME_STRIDE),
    "T2V, RoPE extrapolation": ((_T2I, _FEW, _MANY), _EXTRAPOLATED | _SAME_STRIDE),
    "T2V 2x stride, interpolation": ((_T2I, _FEW, _MANY), {}),
}
"""T2V of twice the frames, section 2.4; operations of table 14."""

OPERATIONS: Mapping[str, str] = MappingProxyType({"6b": "13", "6c": "14"})
"""The table of the paper that prints the operations of another one."""

TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "2": Table(
            rows=_rows({row: cumulative(TABLE_2, row) for row in TABLE_2}, ("t2i",)),
            columns=("FID", "PICK", "CLIP", "GenEval", "DSG", "HPSv2", "ImageReward"),
            paper={
                "Baseline": ("26.17", "20.91", "32.03", "0.358", "0.571", "26.33", "-0.25"),
                "+ QK norm": ("25.60", "20.92", "32.08", "0.372", "0.574", "26.32", "-0.22"),
                "+ Sandwich norm": ("25.76", "20.97", "32.13", "0.366", "0.577", "26.32", "-0.23"),
                "+ Cond. norm": ("25.58", "21.05", "32.27", "0.393", "0.583", "26.43", "-0.22"),
                "+ LR 2e-4": ("26.35", "21.03", "32.28", "0.379", "0.586", "26.40", "-0.12"),
                "+ Flow": ("24.96", "21.45", "32.90", "0.457", "0.639", "26.95", "0.15"),
                "+ Renorm": ("21.16", "21.46", "32.93", "0.471", "0.668", "27.27", "0.32"),
                "+ AdaFactor": ("20.26", "21.47", "32.97", "0.474", "0.661", "27.26", "0.32"),
                "+ MaskDiT": ("23.85", "21.51", "33.07", "0.499", "0.663", "27.28", "0.30"),
                "+ Shared AdaLN": ("22.83", "21.44", "33.12", "0.496", "0.658", "27.27", "0.24"),
                "+ Micro cond.": ("20.02", "21.50", "33.09", "0.498", "0.673", "27.27", "0.41"),
                "+ RoPE": ("18.40", "21.46", "33.11", "0.502", "0.680", "27.26", "0.48"),
                "+ Internal VAE": ("19.57", "21.79", "33.26", "0.492", "0.668", "27.26", "0.52"),
                "+ Internal CLIP": ("17.97", "21.89", "33.62", "0.607", "0.717", "27.40", "0.65"),
                "+ Synth. captions": ("18.04", "22.10", "33.65", "0.685", "0.751", "27.65", "0.81"),
            },
            tasks=("t2i",),
            encoder_rows=TABLE_2_ENCODERS,
            notes=(
                '"+ Synth. captions" mixes a caption that came with the source into those of the data engine: on clips that '
                "have one caption alone it is the row above.",
            ),
        ),
        "3": Table(
            rows=_rows(TABLE_3),
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
            tasks=("ti2v",),
        ),
        "4": Table(
            rows={**_rows({"T2V": {}}, ("t2i", "t2v")), **_rows(TABLE_4)},
            columns=("T2V Q", "T2V S", "T2V Total", "I2V I", "I2V Q", "I2V Total"),
            paper={
                "T2V": ("82.2", "77.0", "81.2", "/", "/", "/"),
                "STIV": ("74.6", "31.9", "66.1", "98.0", "82.1", "90.1"),
                "STIV-JIT": ("82.3", "74.1", "80.7", "97.6", "81.9", "89.8"),
            },
            tasks=("t2v", "ti2v"),
            notes=(
                "The paper's last row, STIV-JIT with temporal upsampling after it (83.0, 73.1, 81.0; 97.2, 82.3, 89.7), is not run.",
            ),
        ),
        "6a": Table(
            rows=_rows(TABLE_6A, ("t2i", "t2v")),
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
            tasks=("t2v",),
        ),
        "6b": Table(
            rows=_started(TABLE_6B),
            columns=("MSRVTT FVD", "VBench Q", "VBench S", "VBench Total"),
            paper={
                "Scratch": ("417.98", "80.27", "67.84", "77.78"),
                "T2V-256": ("415.63", "80.28", "71.29", "78.49"),
                "T2I-512": ("401.83", "79.77", "71.58", "78.13"),
                "Both": ("405.14", "80.45", "72.37", "78.83"),
            },
            tasks=("t2v",),
            recipe="stiv_tiny_96",
            starts={row: starts for row, (starts, _) in TABLE_6B.items()},
        ),
        "6c": Table(
            rows=_started(TABLE_6C),
            columns=("FVD", "VBench Q", "VBench S", "VBench Total"),
            paper={
                "T2I": ("549.13", "78.71", "65.69", "76.10"),
                "T2V, RoPE interpolation": ("407.86", "79.56", "65.42", "76.73"),
                "T2V, RoPE extrapolation": ("397.90", "79.18", "64.63", "76.27"),
                "T2V 2x stride, interpolation": ("401.94", "79.59", "66.24", "76.92"),
            },
            tasks=("t2v",),
            recipe="t2v_tiny_64_16",
            starts={row: starts for row, (starts, _) in TABLE_6C.items()},
        ),
    }
)
