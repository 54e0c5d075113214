"""What one worker process does with one row of each step. Plain classes: Ray only calls them.

A row carries ids and paths. What a worker makes it writes itself, under a name that depends only on the row, so
that running a row twice does no harm.
"""

import faulthandler
import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from data_engine.clips import CutSource as SourceClips
from data_engine.config import DataEngineConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import DecodeError, IndivisibleError, RowError, UnreadableSourceError
from data_engine.parts import Part, PartFolder, decode_part, join_parts, num_parts
from data_engine.probe import probe
from data_engine.schema import ClipRecord, SourceVideo
from data_engine.scoring import FrameScorers
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
    """`uri`, `file` (JSON of a `SourceFile`) -> `source` (JSON of a `SourceVideo`) or `reason` and `detail`.

    As in other rows, `unanswered` says what to try again: JSON of a key -> why.
    """

    def __init__(self, config: DataEngineConfig) -> None:
        self._config = config.probe

    def __call__(self, row: Row) -> Row:
        uri = row["uri"]
        done: Row = {"uri": uri, "source": None, "reason": None, "detail": None} | no_answer({})
        try:
            source = probe(SourceFile.from_json(row["file"]), self._config)
        except UnreadableSourceError as error:
            trouble = {uri: str(error)} if error.is_transient else {}
            return done | {"reason": error.reason, "detail": error.detail} | no_answer(trouble)
        return done | {"source": source.to_json()}


REST = -1


class CutSource:
    """`key`, `source_id`, `source` (JSON), `part` -> the tables of its clips and frames; or `reason` and `detail`.

    `part` is the number of a part of a long source, or `REST`: whatever there is left to do of a source. Whoever
    finishes the last part writes the tables.
    """

    def __init__(
        self,
        config: DataEngineConfig,
        root: str,
        made_from: dict[str, str],
        post: Post,
        num_threads: int = 0,
    ) -> None:
        cv2.setNumThreads(1)
        self._config = config
        self._num_threads = num_threads
        self._paths = DatasetPaths(Path(root))
        self._made_from = made_from
        self._post = post
        is_stitched = config.shots.stitch_similarity is not None
        self._similarity = FrameScorers(config.scores).similarity if is_stitched else None

    def __call__(self, row: Row) -> Row:
        source = SourceVideo.from_json(row["source"])
        part_s = self._config.decode.part_s
        folder = PartFolder(self._paths, source, part_s, self._made_from[source.source_id])
        done: Row = {"key": row["key"], "source_id": source.source_id} | no_answer({})
        with ends_if_stuck(self._config.decode.max_stall_s) as still_alive:
            try:
                if row["part"] == REST:
                    self._write(source, self._rest(source, folder, still_alive))
                else:
                    self._decode_part(source, row["part"], folder, still_alive)
            except RowError as error:
                if not isinstance(error, UnreadableSourceError):
                    return done | {"reason": "undecodable", "detail": str(error)}
                trouble = {source.source_id: str(error)} if error.is_transient else {}
                done |= {"reason": error.reason, "detail": str(error)}
                return done | no_answer(trouble)
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
                part = Part(number, folder.count, decode.part_s, self._num_threads)
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
        return cut_source(
            source,
            shots,
            decode,
            num_threads=self._num_threads,
            on_progress=show,
            similarity=self._similarity,
        )

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
        write_clips(self._paths.cuts(source_id), cut.clips, made_from, cut.num_damaged)
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


class EncodeClips:
    """`key`, `location`, `records` (JSON), `files` -> one MP4 for each clip; `failed`: clip id -> why, as JSON."""

    def __init__(self, config: DataEngineConfig, num_threads: int = 0) -> None:
        cv2.setNumThreads(1)
        self._num_threads = num_threads
        self._config = config.shards
        self._max_stall_s = config.decode.max_stall_s

    def __call__(self, row: Row) -> Row:
        failed: dict[str, str] = {}
        trouble: dict[str, str] = {}
        for text, file in zip(row["records"], row["files"], strict=True):
            record = ClipRecord.from_json(text)
            try:
                with ends_if_stuck(self._max_stall_s):
                    mp4 = encode_clip(record, row["location"], self._config, self._num_threads)
            except (DecodeError, UnreadableSourceError) as error:
                is_transient = isinstance(error, UnreadableSourceError) and error.is_transient
                (trouble if is_transient else failed)[record.clip_id] = str(error)
                continue
            with write_atomically(Path(file)) as opened:
                opened.write(mp4)
        return {
            "key": row["key"],
            "num_clips": len(row["records"]),
            "failed": json.dumps(failed),
            **no_answer(trouble),
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


def no_answer(trouble: dict[str, str]) -> Row:
    """What got no answer, and why, as a column: nothing of it is stored, so that another run tries it anew."""
    return {"unanswered": json.dumps(trouble)}
