"""What one worker process does with the kept frames of clips: scores, captions, and what is said of captions.

As in `workers.py`, of which this is the other half.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_engine.append_only import CAPTIONS, JUDGEMENTS, SCORES
from data_engine.caption_judging import CaptionJudge, Judgement, judge_versions, judgements_row
from data_engine.caption_writing import (
    FAILED,
    UNANSWERED,
    CaptionFinding,
    CaptionWriter,
    ClipFrames,
    Written,
    captioner_versions,
    captions_row,
)
from data_engine.config import DataEngineConfig
from data_engine.container import decode_jpeg
from data_engine.hallucination.checker import CaptionedFrames
from data_engine.letterbox import without_bars
from data_engine.schema import ClipRecord, Crop
from data_engine.scoring import FrameScorers, FrameScores, scorer_versions
from data_engine.tables import DatasetPaths, write_table
from data_engine.workers import Row, no_answer

_NO_PICTURE = "no picture of it was kept; more are with a larger decode.frames_per_s"


class _Seen(Protocol):
    @property
    def images(self) -> Sequence[NDArray[np.uint8]]: ...


SeenT = TypeVar("SeenT", bound=_Seen)
OutcomeT = TypeVar("OutcomeT")


class ScoreFrames:
    """`key`, `source_id`, `clip_ids`, `scorers` -> one part of the score table."""

    def __init__(self, config: DataEngineConfig, root: str, made_from: str) -> None:
        self._paths = DatasetPaths(Path(root))
        self._made_from = made_from
        self._versions = scorer_versions(config.scores)
        self._scorers = FrameScorers(config.scores)

    def __call__(self, row: Row) -> Row:
        images = _read_images(self._paths, row["source_id"], row["clip_ids"])
        clips = [images[clip_id] for clip_id in row["clip_ids"]]
        found = {scorer: self._scorers.score(scorer, clips) for scorer in row["scorers"]}
        scores = [
            self._said(clip_id, scorer, found[scorer][place])
            for place, clip_id in enumerate(row["clip_ids"])
            for scorer in row["scorers"]
        ]
        part = self._paths.scores / f"{row['key']}.parquet"
        write_table(part, scores, SCORES, self._made_from)
        return {"key": row["key"], "num_clips": len(row["clip_ids"])}

    def _said(self, clip_id: str, scorer: str, found: FrameScores) -> Row:
        return {
            "clip_id": clip_id,
            "scorer": scorer,
            "version": self._versions[scorer],
            "scores": {name: asdict(score) for name, score in found.scores.items()},
            "texts": found.texts,
            "embedding": found.embedding_D,
        }


class WriteCaptions:
    """`key`, `source_id`, `records` (JSON), `texts`, `captioners` -> one part of the caption table."""

    def __init__(self, config: DataEngineConfig, root: str, made_from: str) -> None:
        cv2.setNumThreads(1)
        self._paths = DatasetPaths(Path(root))
        self._made_from = made_from
        self._versions = captioner_versions(config)
        self._writer = CaptionWriter(config)

    def __call__(self, row: Row) -> Row:
        records = [ClipRecord.from_json(text) for text in row["records"]]
        images = _read_images(self._paths, row["source_id"], [r.clip_id for r in records])
        clips = [
            ClipFrames(record, images[record.clip_id], tuple(texts))
            for record, texts in zip(records, row["texts"], strict=True)
        ]
        written = [
            captions_row(clip.record.clip_id, captioner, self._versions[captioner], outcome)
            for captioner in row["captioners"]
            for clip, outcome in zip(clips, self._write(captioner, clips), strict=True)
        ]
        done: Row = {"key": row["key"], "num_clips": len(records)}
        return done | _append(self._paths.captions, row, written, CAPTIONS, self._made_from)

    def _write(self, captioner: str, clips: list[ClipFrames]) -> list[Written]:
        unseen = CaptionFinding(captioner, FAILED, _NO_PICTURE)
        return _where_seen(clips, partial(self._writer.write, captioner), unseen)


class JudgeCaptions:
    """`key`, `source_id`, `clip_ids`, `captions`, `judges` -> one part of the table of judgements."""

    def __init__(self, config: DataEngineConfig, root: str, made_from: str) -> None:
        cv2.setNumThreads(1)
        self._paths = DatasetPaths(Path(root))
        self._made_from = made_from
        self._versions = judge_versions(config)
        self._judge = CaptionJudge(config)

    def __call__(self, row: Row) -> Row:
        images = _read_images(self._paths, row["source_id"], row["clip_ids"])
        captioned = list(zip(row["clip_ids"], row["captions"], strict=True))
        clips = [CaptionedFrames(text, images[clip_id]) for clip_id, text in captioned]
        said = [
            judgements_row(clip_id, text, (judge, self._versions[judge]), judgement)
            for judge in row["judges"]
            for (clip_id, text), judgement in zip(captioned, self._hear(judge, clips), strict=True)
        ]
        done: Row = {"key": row["key"], "num_clips": len(captioned)}
        return done | _append(self._paths.judgements, row, said, JUDGEMENTS, self._made_from)

    def _hear(self, judge: str, clips: list[CaptionedFrames]) -> list[Judgement]:
        unseen = Judgement(finding=CaptionFinding(judge, FAILED, _NO_PICTURE))
        return _where_seen(clips, partial(self._judge.judge, judge), unseen)


def _where_seen(
    clips: Sequence[SeenT], ask: Callable[[list[SeenT]], Sequence[OutcomeT]], unseen: OutcomeT
) -> list[OutcomeT]:
    """The outcome of each clip, in order; of those without pictures, about which nobody is asked, `unseen`."""
    seen = [clip for clip in clips if clip.images]
    outcomes = iter(ask(seen) if seen else ())
    return [next(outcomes) if clip.images else unseen for clip in clips]


def _append(
    folder: Path, row: Row, outcomes: Sequence[Row], schema: pa.Schema, made_from: str
) -> Row:
    """Store a part of a table, without what got no answer; that as a column."""

    def isno_answer(outcome: Row) -> bool:
        return outcome["finding"] is not None and outcome["finding"]["reason"] == UNANSWERED

    answered = [outcome for outcome in outcomes if not isno_answer(outcome)]
    if answered:
        write_table(folder / f"{row['key']}.parquet", answered, schema, made_from)
    return no_answer({o["clip_id"]: o["finding"]["detail"] for o in outcomes if isno_answer(o)})


def _read_images(
    paths: DatasetPaths, source_id: str, clip_ids: Sequence[str]
) -> dict[str, list[NDArray[np.uint8]]]:
    """The kept frames of some clips of a source, in order of time and without letterbox bars."""
    columns = ["clip_id", "crop", "height_px", "width_px"]
    chosen = [("clip_id", "in", list(clip_ids))]
    cuts = pq.read_table(paths.cuts(source_id), columns=columns, filters=chosen)
    crops = {
        row["clip_id"]: (Crop(**row["crop"]), (row["height_px"], row["width_px"]))
        for row in cuts.to_pylist()
        if row["crop"] is not None
    }
    table = pq.read_table(paths.frames(source_id), filters=chosen)
    images: dict[str, list[NDArray[np.uint8]]] = {clip_id: [] for clip_id in clip_ids}
    for row in table.sort_by("time_s").to_pylist():
        image = decode_jpeg(row["jpeg"])
        if row["clip_id"] in crops:
            image = without_bars(image, *crops[row["clip_id"]])
        images[row["clip_id"]].append(image)
    return images
