"""Clips as columns of numbers: what a decision needs of many clips at once, without a record for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_engine.config import FilterConfig
from data_engine.filters import Threshold
from data_engine.schema import Rejection
from data_engine.tables import DatasetPaths, read_arrow

KEPT, FAILED = -1, -2
"""Decisions that are no reason; the others are places in `REASONS`."""
REASONS = tuple(Rejection)

_COLUMNS = ["clip_id", "scores", "category", "duplicate_of", "rejected_by", "error"]
_FACTS = ["source_id", "start_s", "end_s", "fps", "num_frames", "height_px", "width_px", "crop"]


@dataclass(frozen=True, slots=True)
class ClipColumns:
    """One entry a clip in each column, in one order."""

    clip_id: pa.Array
    source_id: pa.Array
    start_s: NDArray[np.float64]
    numbers: dict[str, NDArray[np.float64]]
    """Scores and facts by name; NaN where a clip has none."""
    category: NDArray[np.object_]
    is_copy: NDArray[np.bool_]
    is_failed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.clip_id)

    @classmethod
    def read(cls, paths: DatasetPaths) -> Self:
        """Every clip that was cut, with all that any step found out about it.

        Raises:
            TableError: the clips were never filtered.
        """
        table = read_arrow(paths.scored_clips, [*_COLUMNS, *_FACTS])
        columns = cls(
            clip_id=_array(table, "clip_id"),
            source_id=_array(table, "source_id"),
            start_s=_floats(table, "start_s"),
            numbers=_facts(table) | _scores(table),
            category=_categories(table),
            is_copy=_is_set(table, "duplicate_of"),
            is_failed=_is_set(table, "error"),
        )
        is_open = np.ones(len(columns), dtype=bool)
        for path in paths.decided_clips:
            # The first must be there; a later one may be older, and then only its still open clips count.
            if path.exists() or path == paths.filtered_clips:
                columns._update(read_arrow(path, _COLUMNS), is_open)
        return columns

    def _update(self, table: pa.Table, is_open: NDArray[np.bool_]) -> None:
        """What a later table says of the clips that were open before it."""
        places = {clip_id: place for place, clip_id in enumerate(self.clip_id.to_pylist())}
        ids = _array(table, "clip_id").to_pylist()
        found = np.array([places.get(clip_id, -1) for clip_id in ids], dtype=np.int64)
        chosen = np.flatnonzero((found >= 0) & is_open[found])
        rows = found[chosen]
        for name, values in _scores(table).items():
            # A step adds scores and takes none away.
            column, new = self.numbers.setdefault(name, np.full(len(self), np.nan)), values[chosen]
            column[rows] = np.where(np.isnan(new), column[rows], new)
        self.category[rows] = _categories(table)[chosen]
        self.is_copy[rows] = _is_set(table, "duplicate_of")[chosen]
        self.is_failed[rows] = _is_set(table, "error")[chosen]
        is_open[rows] = ~(_is_set(table, "rejected_by") | _is_set(table, "error"))[chosen]

    def number(self, score: str) -> NDArray[np.float64]:
        """A score of every clip, NaN where it has none."""
        found = self.numbers.get(score)
        return np.full(len(self), np.nan) if found is None else found

    def judge(
        self,
        decided: NDArray[np.int64],
        filters: FilterConfig,
        thresholds: Sequence[Threshold],
        over: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """The decisions after some thresholds: of each clip that was kept so far, the first reason that applies.

        Percentiles are over the clips that `over` marks; that of a score which none of them has is off.
        """
        decided = decided.copy()
        for threshold in thresholds:
            limit = threshold.limit(filters)
            if limit is None:
                continue
            values = self.number(threshold.score)
            if isinstance(limit, str):
                known = values[over & ~np.isnan(values)]
                if not known.size:
                    continue
                limit = float(np.percentile(known, float(limit.removeprefix("p"))))
            is_kept, is_unknown = decided == KEPT, np.isnan(values)
            is_beyond = values < limit if threshold.is_minimum else values > limit
            decided[is_kept & is_unknown] = REASONS.index(Rejection.NOT_SCORED)
            decided[is_kept & is_beyond] = REASONS.index(threshold.rejection)
        return decided

    def judge_categories(
        self, decided: NDArray[np.int64], filters: FilterConfig
    ) -> NDArray[np.int64]:
        """The decisions after the categories."""
        is_wrong = np.isin(self.category, list(filters.no_categories))
        if filters.categories is not None:
            is_wrong |= ~np.isin(self.category, list(filters.categories))
        reason = REASONS.index(Rejection.WRONG_CATEGORY)
        return np.where((decided == KEPT) & is_wrong, reason, decided)


def _array(table: pa.Table, name: str) -> Any:
    return table[name].combine_chunks()


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.array(table[name].to_numpy(), dtype=np.float64)


def _is_set(table: pa.Table, name: str) -> NDArray[np.bool_]:
    return np.array(table[name].is_valid().to_numpy(), dtype=bool)


def _categories(table: pa.Table) -> NDArray[np.object_]:
    return np.array(_inside(table, "category", "name"), dtype=object)


def _inside(table: pa.Table, name: str, field: str) -> NDArray[Any]:
    """A field of a column of structs; without a value where there is no struct."""
    column = _array(table, name)
    return column.flatten()[column.type.get_field_index(field)].to_numpy(zero_copy_only=False)


def _facts(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """What every clip knows of itself (`filters.measured`)."""
    sides: dict[str, NDArray[np.float64]] = {}
    for name in ("height_px", "width_px"):
        cropped = np.array(_inside(table, "crop", name), dtype=np.float64)
        sides[name] = np.where(np.isnan(cropped), _floats(table, name), cropped)
    return {
        "duration_s": _floats(table, "end_s") - _floats(table, "start_s"),
        "num_frames": _floats(table, "num_frames"),
        "fps": _floats(table, "fps"),
        "aspect": sides["width_px"] / sides["height_px"],
        **sides,
    }


def _scores(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    column = _array(table, "scores")
    rows = np.repeat(np.arange(len(column)), np.diff(column.offsets.to_numpy()))
    names = column.keys.dictionary_encode()
    codes = names.indices.to_numpy()
    values = column.items.field("value").to_numpy(zero_copy_only=False)
    found: dict[str, NDArray[np.float64]] = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        of_name = codes == code
        found[name] = np.full(len(column), np.nan)
        found[name][rows[of_name]] = values[of_name]
    return found
