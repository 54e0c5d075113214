"""Near-duplicates: clips whose frame features nearly agree; the best copy of each group is kept.

Taking the clips from the best to the worst and comparing each with those kept so far, rather than joining pairs to
chains, means that every dropped clip is close to the very clip that stands for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from data_engine.schema import ClipRecord

# Below this many clips every pair is compared; above it, only those in neighbouring cells of an index.
_EXACT_CLIPS = 100_000
_CELLS_SEARCHED = 16


def best_first(record: ClipRecord) -> tuple[float, float, float, str]:
    """The order of preference among copies: more pixels, then sharper, then longer; then the id, to be definite."""
    return (
        -record.picture_size_px[0] * record.picture_size_px[1],
        -(record.score("sharpness") or 0.0),
        -record.duration_s,
        record.clip_id,
    )


def find_duplicates(
    records: Sequence[ClipRecord],
    embeddings: Mapping[str, NDArray[np.float32]],
    max_similarity: float,
    *,
    within_source: bool = False,
    exact_clips: int = _EXACT_CLIPS,
) -> dict[str, tuple[str, float]]:
    """Dropped clip id -> the kept clip that it duplicates, and their cosine.

    `embeddings` holds a unit vector for each clip id; a clip without one has no duplicates. Clips of one source are
    compared only with `within_source`: the parts of a long shot look alike, and are not copies. With more than
    `exact_clips` clips an inverted-file index is searched, which may miss a few pairs and invents none.
    """
    ordered = sorted((r for r in records if r.clip_id in embeddings), key=best_first)
    if len(ordered) < 2:
        return {}
    rows_ND = np.stack([embeddings[record.clip_id] for record in ordered]).astype(np.float32)
    limits, similarities, neighbours = _near(rows_ND, rows_ND, max_similarity, exact_clips)
    duplicates: dict[str, tuple[str, float]] = {}
    is_kept = np.ones(len(ordered), dtype=bool)
    sources = np.unique([record.source_id for record in ordered], return_inverse=True)[1]
    for position, record in enumerate(ordered):
        found = slice(limits[position], limits[position + 1])
        near = neighbours[found]
        stands = is_kept[near] & (near < position)
        if not within_source:
            stands &= sources[near] != sources[position]
        if not stands.any():
            continue
        is_kept[position] = False
        candidates, cosines = near[stands], similarities[found][stands]
        # The nearest; of equals the best one.
        nearest = np.lexsort((candidates, -cosines))[0]
        kept_id = ordered[candidates[nearest]].clip_id
        duplicates[record.clip_id] = (kept_id, float(cosines[nearest]))
    return duplicates


@dataclass(frozen=True, slots=True)
class Original:
    """A clip that an earlier data set kept; its embedding is of unit length."""

    dataset: str
    record: ClipRecord
    embedding_D: NDArray[np.float32]

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.record.clip_id}"

    def may_have_copy(self, record: ClipRecord) -> bool:
        """Clips of one source are copies only where they show the same time: the parts of a long shot look alike."""
        mine = self.record
        is_same_time = mine.start_s < record.end_s and record.start_s < mine.end_s
        return mine.source_id != record.source_id or is_same_time


def find_copies(
    records: Sequence[ClipRecord],
    embeddings: Mapping[str, NDArray[np.float32]],
    originals: Sequence[Original],
    max_similarity: float,
    *,
    within_source: bool = False,
    exact_clips: int = _EXACT_CLIPS,
) -> dict[str, tuple[str, float]]:
    """Clip id -> the name of the nearest original that it duplicates, and their cosine; of equals, the first.

    An original always stays, better or worse: its data set is done, and others may have been trained on. With more
    than `exact_clips` originals an inverted-file index is searched, which may miss a few and invents none.
    """
    shown = [record for record in records if record.clip_id in embeddings]
    if not shown or not originals:
        return {}
    rows_ND = np.stack([embeddings[record.clip_id] for record in shown]).astype(np.float32)
    originals_MD = np.stack([original.embedding_D for original in originals]).astype(np.float32)
    limits, similarities, neighbours = _near(originals_MD, rows_ND, max_similarity, exact_clips)
    copies: dict[str, tuple[str, float]] = {}
    for position, record in enumerate(shown):
        found = slice(limits[position], limits[position + 1])
        near = zip((-similarities[found]).tolist(), neighbours[found].tolist(), strict=True)
        for cosine, place in sorted(near):
            if within_source or originals[place].may_have_copy(record):
                copies[record.clip_id] = (originals[place].name, -cosine)
                break
    return copies


def _near(
    rows_ND: NDArray[np.float32],
    asked_QD: NDArray[np.float32],
    min_similarity: float,
    exact_clips: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """For each row that is asked for, the rows at least this similar: bounds into flat arrays of cosines and positions."""
    num_rows, width = rows_ND.shape
    index = faiss.IndexFlatIP(width)
    if num_rows > exact_clips:
        # faiss asks for some 40 rows a cell to place the cells.
        num_cells = max(1, min(round(4 * num_rows**0.5), num_rows // 40))
        index = faiss.IndexIVFFlat(index, width, num_cells, faiss.METRIC_INNER_PRODUCT)
        index.train(rows_ND)
        index.nprobe = _CELLS_SEARCHED
    index.add(rows_ND)
    limits, similarities, neighbours = index.range_search(asked_QD, min_similarity)
    return limits.astype(np.int64), similarities, neighbours
