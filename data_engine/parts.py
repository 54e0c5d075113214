"""A long source in parts: runs of presentation time that are decoded apart, and put together again.

What is put together is bit for bit what `decode.cut_source` gives. A part seeks to a key frame before it and discards
what comes before its own frames; what is measured over several frames looks beyond its ends. Neighbours must agree on
the time and the pixels of the frames where they meet: where a container seeks inexactly or its timestamps jump they do
not, and the source has to be decoded undivided.

A part is a folder that appears by a rename: `frames.npz`, `facts.json`, JPEGs and what a network for shots needs.
"""

import json
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from data_engine.clips import CutSource, Similarity, clips_of
from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import open_video
from data_engine.decode import FramesInOrder, TimedFrame, check_damage, is_new_second
from data_engine.errors import IndivisibleError
from data_engine.letterbox import Margins
from data_engine.observing import FlowSample, Observed, Observer, Picture, Sample
from data_engine.schema import SourceVideo
from data_engine.scores.motion import Flow
from data_engine.shots import FRAMES_BEFORE
from data_engine.tables import DatasetPaths, fingerprint

# A seek aims so far before a part, and further if too few frames come before it.
_LEADS_S = (1.0, 8.0, 60.0)
_FRAMES, _FACTS = "frames.npz", "facts.json"
_UNDIVIDED, _CLAIMED = "undivided", "claimed"


@dataclass(frozen=True, slots=True)
class Edge:
    """A frame where parts meet: its presentation time, its place in the file if known, and a hash of its pixels.

    The place tells apart times that a file holds twice.
    """

    time_s: float
    position: int | None
    digest: str


@dataclass(frozen=True, slots=True)
class Seams:
    """The ends of a part: its own first and last frame, and those next to them, where the source goes on.

    A part without frames has no first and no last one.
    """

    before: Edge | None
    first: Edge | None
    last: Edge | None
    after: Edge | None

    def fits(self, following: "Seams") -> bool:
        """Whether this part and the one after it saw the same frames where they meet."""
        begins_as_seen = self.after == (following.first or following.after)
        ends_as_seen = following.before == (self.last or self.before)
        return begins_as_seen and ends_as_seen


def num_parts(source: SourceVideo, part_s: float | None) -> int:
    """How many parts of `part_s` seconds a source has; the last one may be shorter. 1 if it is decoded undivided."""
    if part_s is None or source.duration_s <= part_s:
        return 1
    return math.ceil(source.duration_s / part_s)


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th of `count` runs of `length_s` seconds; the first and the last have no outer end."""

    number: int
    count: int
    length_s: float
    num_threads: int = 0
    """Of its decoder; 0 lets the codec choose."""

    def span_s(self, origin_s: float) -> tuple[float, float]:
        """Half-open, in presentation time. The same computation gives both neighbours their common edge."""
        start_s = origin_s + self.number * self.length_s if self.number else -math.inf
        is_last = self.number + 1 == self.count
        end_s = math.inf if is_last else origin_s + (self.number + 1) * self.length_s
        return start_s, end_s


class PartFolder:
    """The parts of one source on disk. A part that is there is whole.

    `made_from` is the fingerprint of what is decoded and how; parts of another one lie in another folder.
    """

    def __init__(
        self, paths: DatasetPaths, source: SourceVideo, part_s: float | None, made_from: str
    ) -> None:
        self.path = paths.parts(source.source_id) / fingerprint("parts", made_from, part_s)
        self.made_from = made_from
        self.count = num_parts(source, part_s)

    def is_complete(self) -> bool:
        """Whether the parts can be joined, and nobody found that they do not fit."""
        return self.count > 1 and not self.missing() and not self.is_undivided()

    def remove_orphans(self) -> None:
        """Delete what processes that were killed left of parts that they decoded. Nobody may be decoding one."""
        for path in self.path.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def missing(self) -> list[int]:
        """The numbers of the parts that are not there."""
        return [number for number in range(self.count) if not self._part(number).exists()]

    def is_undivided(self) -> bool:
        """Whether it was found out that the source must be decoded undivided."""
        return (self.path / _UNDIVIDED).exists()

    def give_up(self) -> None:
        """Remember that the source must be decoded undivided."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _UNDIVIDED).touch()

    def claim(self) -> bool:
        """Whether whoever asks is the first one: of several workers that see the last part appear, one joins them."""
        try:
            (self.path / _CLAIMED).touch(exist_ok=False)
        except (FileExistsError, FileNotFoundError):
            # Without a folder they are joined already.
            return False
        return True

    def save(self, number: int, observed: Observed, seams: Seams) -> None:
        """Give a part, whose pictures lie in a folder beside the parts, its name."""
        np.savez(
            observed.folder / _FRAMES,
            times_s=observed.times_s,
            luminances=observed.luminances,
            thumbnails=observed.thumbnails,
            candidates=np.array(observed.candidates, np.int64),
            damaged=np.array(observed.damaged, np.int64),
        )
        facts = {
            "seams": asdict(seams),
            "samples": [asdict(sample) for sample in observed.samples],
            "flows": [asdict(flow) for flow in observed.flows],
        }
        (observed.folder / _FACTS).write_text(json.dumps(facts))
        for file in observed.folder.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        # A row that is run twice made it already.
        if not self._part(number).exists():
            observed.folder.rename(self._part(number))

    def load(self) -> tuple[list[Observed], list[Seams]]:
        """What was observed in every part, in order, and its ends."""
        folders = [self._part(number) for number in range(self.count)]
        facts = [json.loads((folder / _FACTS).read_text()) for folder in folders]
        runs = [_observed(folder, found) for folder, found in zip(folders, facts, strict=True)]
        return runs, [_seams(**found["seams"]) for found in facts]

    def _part(self, number: int) -> Path:
        return self.path / f"{number:06d}"


def decode_part(
    source: SourceVideo,
    part: Part,
    shots: ShotConfig,
    decode: DecodeConfig,
    folder: PartFolder,
    on_progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Decode one part and store it. `on_progress` is told how many seconds of it are done, about once a second.

    Raises:
        IndivisibleError: no seek leads there, or its timestamps are out of order.
        DecodeError: it does not decode.
        UnreadableSourceError: the source is gone or out of reach.
        DetectorError: the shot detector that is asked for is not installed.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(
            dir=folder.path, prefix=".", ignore_cleanup_errors=True
        ) as made,
        open_video(source.location, part.num_threads) as (container, stream),
    ):
        # Its files get the usual rights; those of a temporary folder are its owner's alone.
        inside = Path(made) / "part"
        inside.mkdir()
        start_s, end_s = part.span_s(_origin_s(stream))
        begin_s = max(start_s, _origin_s(stream))

        def show(time_s: float) -> None:
            if is_new_second(time_s, source):
                on_progress(min(max(0.0, time_s - begin_s), part.length_s))

        with Observer(source, shots, decode, inside) as observer:
            way = _way_to(container, stream, start_s, part.length_s, show)
            seams = _observe(observer, way, end_s, show)
            if way.num_bad() or way.num_lost():
                raise IndivisibleError(
                    f"timestamps of part {part.number} are out of order, or data are missing"
                )
            observed = observer.observed()
        folder.save(part.number, observed, seams)


def _observe(
    observer: Observer, way: "_Way", end_s: float, on_time: Callable[[float], None]
) -> Seams:
    for timed in way.before:
        observer.add_before(timed.frame, timed.time_s)
    first = last = after = None
    for timed in way.frames:
        on_time(timed.time_s)
        if timed.time_s < end_s:
            first, last = first or timed, timed
            observer.add(timed.frame, timed.time_s, is_damaged=timed.is_damaged)
            continue
        after = after or timed
        if not observer.add_after(timed.frame, timed.time_s):
            break
    before = way.before[-1] if way.before else None
    return Seams(*(_edge(timed) for timed in (before, first, last, after)))


def join_parts(
    source: SourceVideo,
    shots: ShotConfig,
    decode: DecodeConfig,
    folder: PartFolder,
    still_alive: Callable[[], None] = lambda: None,
    similarity: Similarity | None = None,
) -> CutSource:
    """What an undivided decode of the source gives, from all its parts.

    Raises:
        IndivisibleError: neighbours do not agree on the frames where they meet.
        DecodeError: the source has no frames, or most of them are damaged.
    """
    runs, seams = folder.load()
    for number, (one, following) in enumerate(pairwise(seams)):
        if not one.fits(following):
            raise IndivisibleError(
                f"parts {number} and {number + 1} disagree on the frames where they meet"
            )
    check_damage(sum(len(run.damaged) for run in runs), sum(len(run.times_s) for run in runs))
    return clips_of(source, shots, decode, runs, still_alive, similarity)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a part is entered: the frames just before it, and all that follow."""

    before: list[TimedFrame]
    frames: Iterator[TimedFrame]
    _ordered: FramesInOrder
    _num_bad_before: int = 0

    def num_bad(self) -> int:
        """Frames without a usable time since the part began. Those before are the business of the part before."""
        return self._ordered.num_bad - self._num_bad_before

    def num_lost(self) -> int:
        """Packets that no decoder can make anything of, those before the part included."""
        return self._ordered.num_lost


def _way_to(
    container: InputContainer,
    stream: VideoStream,
    start_s: float,
    max_detour_s: float,
    on_time: Callable[[float], None],
) -> _Way:
    """Raises IndivisibleError: there is no key frame near enough, or no seek."""
    if start_s == -math.inf:
        ordered = FramesInOrder(container, stream)
        return _Way([], iter(ordered), ordered)
    origin_s = _origin_s(stream)
    for lead_s in _LEADS_S:
        aim_s = max(origin_s, start_s - lead_s)
        way = _seek(container, stream, (aim_s, start_s), max_detour_s, on_time)
        # At the beginning of the source there may be fewer frames.
        if len(way.before) == FRAMES_BEFORE or aim_s == origin_s:
            return way
    raise IndivisibleError(f"no {FRAMES_BEFORE} frames were found before {start_s:.2f} s")


def _seek(
    container: InputContainer,
    stream: VideoStream,
    aim_and_start_s: tuple[float, float],
    max_detour_s: float,
    on_time: Callable[[float], None],
) -> _Way:
    aim_s, start_s = aim_and_start_s
    assert stream.time_base is not None, "a stream that was probed has a time base"
    try:
        container.seek(math.floor(aim_s / stream.time_base), stream=stream, backward=True)
    except FFmpegError as error:
        raise IndivisibleError(f"no seek leads to {aim_s:.2f} s: {error}") from error
    ordered = FramesInOrder(container, stream)
    frames = iter(ordered)
    before: deque[TimedFrame] = deque(maxlen=FRAMES_BEFORE)
    for timed in frames:
        time_s = timed.time_s
        on_time(time_s)
        if time_s >= start_s:
            return _Way(list(before), chain([timed], frames), ordered, ordered.num_bad)
        if not before and time_s < aim_s - max_detour_s:
            raise IndivisibleError(
                f"the key frame before {aim_s:.2f} s is at {time_s:.2f} s, so that parts would be decoded twice"
            )
        before.append(timed)
    return _Way(list(before), iter(()), ordered, ordered.num_bad)


def _origin_s(stream: VideoStream) -> float:
    """The presentation time at which a stream says that it begins."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _edge(timed: TimedFrame | None) -> Edge | None:
    if timed is None:
        return None
    # At full size: damage by a seek into the middle of a group of pictures may be small.
    pixels = timed.frame.to_ndarray(format="rgb24").tobytes()
    return Edge(timed.time_s, timed.position, sha256(pixels).hexdigest())


def _seams(**edges: dict[str, Any] | None) -> Seams:
    return Seams(**{name: None if edge is None else Edge(**edge) for name, edge in edges.items()})


def _observed(folder: Path, found: dict[str, Any]) -> Observed:
    with np.load(folder / _FRAMES) as arrays:
        return Observed(
            folder=folder,
            times_s=arrays["times_s"],
            luminances=arrays["luminances"],
            thumbnails=arrays["thumbnails"],
            candidates=tuple(arrays["candidates"].tolist()),
            damaged=tuple(arrays["damaged"].tolist()),
            samples=tuple(_sample(**sample) for sample in found["samples"]),
            flows=tuple(
                FlowSample(flow["from_s"], flow["to_s"], Flow(**flow["flow"]))
                for flow in found["flows"]
            ),
        )


def _sample(margins: dict[str, int] | None, picture: dict[str, int], **numbers: Any) -> Sample:
    return Sample(
        **numbers,
        margins=None if margins is None else Margins(**margins),
        picture=Picture(**picture),
    )
