"""What one worker process does with one row of each step. Plain classes: Ray only calls them.

A row carries ids and paths. What a worker makes it writes itself, under a name that depends only on the row, so
that running a row twice does no harm.
"""

import faulthandler
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_engine.append_only import CAPTIONS, JUDGEMENTS, SCORES
from data_engine.caption_judging import CaptionJudge, judge_versions, judgements_row
from data_engine.caption_writing import CaptionWriter, ClipFrames, captioner_versions, captions_row
from data_engine.clips import CutSource as SourceClips
from data_engine.config import DataEngineConfig
from data_engine.container import decode_jpeg
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import DecodeError, IndivisibleError, RowError, UnreadableSourceError
from data_engine.hallucination.checker import CaptionedFrames
from data_engine.letterbox import without_bars
from data_engine.parts import Part, PartFolder, decode_part, join_parts, num_parts
from data_engine.probe import probe
from data_engine.schema import ClipRecord, Crop, SourceVideo
from data_engine.scoring import FrameScorers, FrameScores, scorer_versions
from data_engine.shard_writer import (
    EncodedClip,
    ShardReceipt,
    remove_receipt,
    write_receipt,
    write_shard,
)
from data_engine.sources import SourceFile
from data_engine.tables import (
    FRAMES,
    DatasetPaths,
    is_made_from,
    write_atomically,
    write_clips,
    write_table,
)

Row = dict[str, Any]
Post = Callable[[str, float], None]
"""Told the key of a row and how much of it is done."""


@contextmanager
def ends_if_stuck(max_stall_s: float) -> Generator[Callable[[], None]]:
    """End this process if it is stuck in a codec: unless the function it gives is called every so often.

    Nothing softer can leave a C library that does not return; the row is then treated like one that crashed.
    """

    def still_alive() -> None:
        faulthandler.dump_traceback_later(max_stall_s, exit=True)

    still_alive()
    try:
        yield still_alive
    finally:
        faulthandler.cancel_dump_traceback_later()


class ProbeSource:
    """`uri`, `file` (JSON of a `SourceFile`) -> `source` (JSON of a `SourceVideo`) or `reason` and `detail`."""

    def __init__(self, config: DataEngineConfig) -> None:
        self._config = config.probe

    def __call__(self, row: Row) -> Row:
        done: Row = {"uri": row["uri"], "source": None, "reason": None, "detail": None}
        try:
            source = probe(SourceFile.from_json(row["file"]), self._config)
        except UnreadableSourceError as error:
            return done | {"reason": error.reason, "detail": error.detail}
        return done | {"source": source.to_json()}


REST = -1


class CutSource:
    """`key`, `source_id`, `source` (JSON), `part` -> the tables of its clips and frames; or `reason` and `detail`.

    `part` is the number of a part of a long source, or `REST`: whatever there is left to do of a source. Whoever
    finishes the last part writes the tables.
    """

    def __init__(
        self, config: DataEngineConfig, root: str, made_from: dict[str, str], post: Post
    ) -> None:
        cv2.setNumThreads(1)
        self._config = config
        self._paths = DatasetPaths(Path(root))
        self._made_from = made_from
        self._post = post
        is_stitched = config.shots.stitch_similarity is not None
        self._similarity = FrameScorers(config.scores).similarity if is_stitched else None

    def __call__(self, row: Row) -> Row:
        source = SourceVideo.from_json(row["source"])
        part_s = self._config.decode.part_s
        folder = PartFolder(self._paths, source, part_s, self._made_from[source.source_id])
        done: Row = {"key": row["key"], "source_id": source.source_id}
        with ends_if_stuck(self._config.decode.max_stall_s) as still_alive:
            try:
                if row["part"] == REST:
                    self._write(source, self._rest(source, folder, still_alive))
                else:
                    self._decode_part(source, row["part"], folder, still_alive)
            except RowError as error:
                reason = error.reason if isinstance(error, UnreadableSourceError) else "undecodable"
                return done | {"reason": reason, "detail": str(error)}
        return done | {"reason": None, "detail": None}

    def _decode_part(
        self, source: SourceVideo, number: int, folder: PartFolder, still_alive: Callable[[], None]
    ) -> None:
        shots, decode = self._config.shots, self._config.decode
        assert decode.part_s is not None, "only then are there parts"
        key = part_key(source, number)

        def show(done_s: float) -> None:
            still_alive()
            self._post(key, done_s)

        # A row that is run twice may come when the source is done.
        is_cut = is_made_from(self._paths.cuts(source.source_id), folder.made_from)
        if is_cut or folder.is_undivided():
            return
        try:
            if number in folder.missing():
                part = Part(number, folder.count, decode.part_s)
                decode_part(source, part, shots, decode, folder, show)
            if folder.is_complete() and folder.claim():
                self._write(source, self._joined(source, folder, still_alive))
        except UnreadableSourceError:
            # Out of reach now says nothing of its parts; the part stays missing.
            return
        except RowError:
            # The undivided decode has the last word, and words its own error.
            folder.give_up()

    def _rest(
        self, source: SourceVideo, folder: PartFolder, still_alive: Callable[[], None]
    ) -> SourceClips:
        shots, decode = self._config.shots, self._config.decode

        def show(time_s: float) -> None:
            still_alive()
            self._post(source.source_id, time_s)

        if folder.is_complete():
            try:
                return self._joined(source, folder, still_alive)
            except IndivisibleError:
                folder.give_up()
        self._forget_parts(source, folder.count)
        return cut_source(source, shots, decode, on_progress=show, similarity=self._similarity)

    def _joined(
        self, source: SourceVideo, folder: PartFolder, still_alive: Callable[[], None]
    ) -> SourceClips:
        shots, decode = self._config.shots, self._config.decode
        return join_parts(source, shots, decode, folder, still_alive, self._similarity)

    def _write(self, source: SourceVideo, cut: SourceClips) -> None:
        source_id = source.source_id
        made_from = self._made_from[source_id]
        # An older table must not vouch for the new frames.
        self._paths.cuts(source_id).unlink(missing_ok=True)
        # The clips last: their table says that the frames are complete as well.
        frames = (asdict(frame) for frame in cut.frames)
        write_table(self._paths.frames(source_id), frames, FRAMES, made_from)
        write_clips(self._paths.cuts(source_id), cut.clips, made_from)
        shutil.rmtree(self._paths.parts(source_id), ignore_errors=True)
        self._forget_parts(source, num_parts(source, self._config.decode.part_s))
        self._post(source_id, source.duration_s)

    def _forget_parts(self, source: SourceVideo, count: int) -> None:
        """From here on the source itself is counted."""
        for number in range(count if count > 1 else 0):
            self._post(part_key(source, number), 0.0)


def part_key(source: SourceVideo, number: int) -> str:
    """What names the row of a part of a source."""
    return f"{source.source_id}/{number}"


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
            for clip, outcome in zip(clips, self._writer.write(captioner, clips), strict=True)
        ]
        part = self._paths.captions / f"{row['key']}.parquet"
        write_table(part, written, CAPTIONS, self._made_from)
        return {"key": row["key"], "num_clips": len(records)}


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
            for (clip_id, text), judgement in zip(
                captioned, self._judge.judge(judge, clips), strict=True
            )
        ]
        part = self._paths.judgements / f"{row['key']}.parquet"
        write_table(part, said, JUDGEMENTS, self._made_from)
        return {"key": row["key"], "num_clips": len(captioned)}


class EncodeClips:
    """`key`, `location`, `records` (JSON), `files` -> one MP4 for each clip; `failed`: clip id -> why, as JSON."""

    def __init__(self, config: DataEngineConfig) -> None:
        cv2.setNumThreads(1)
        self._config = config.shards
        self._max_stall_s = config.decode.max_stall_s

    def __call__(self, row: Row) -> Row:
        failed: dict[str, str] = {}
        for text, file in zip(row["records"], row["files"], strict=True):
            record = ClipRecord.from_json(text)
            try:
                with ends_if_stuck(self._max_stall_s):
                    mp4 = encode_clip(record, row["location"], self._config)
            except (DecodeError, UnreadableSourceError) as error:
                failed[record.clip_id] = str(error)
                continue
            with write_atomically(Path(file)) as opened:
                opened.write(mp4)
        return {
            "key": row["key"],
            "num_clips": len(row["records"]),
            "failed": json.dumps(failed),
        }


class WriteShard:
    """`name`, `bucket`, `records` (JSON), `files` -> one tar and its receipt."""

    def __init__(self, root: str, made_from: dict[str, str]) -> None:
        self._paths = DatasetPaths(Path(root))
        self._made_from = made_from

    def __call__(self, row: Row) -> Row:
        clips = [
            EncodedClip(ClipRecord.from_json(text), Path(file), Path(file).stat().st_size)
            for text, file in zip(row["records"], row["files"], strict=True)
        ]
        tar = self._paths.shards / row["name"]
        remove_receipt(tar)
        # The receipt last: it says that the tar is whole.
        entry = write_shard(tar, row["bucket"], clips)
        write_receipt(tar, ShardReceipt(self._made_from[row["name"]], entry))
        return {"name": row["name"], "num_clips": len(clips)}


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
