"""What a curation run did: counts, a funnel, histograms, pictures, and one HTML page with all of it."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jinja2
import pyarrow.parquet as pq

from data_engine import plots, statistics
from data_engine.clip_pages import write_clip_pages
from data_engine.config import DataEngineConfig
from data_engine.describing import read_descriptions
from data_engine.errors import TableError
from data_engine.schema import MANIFEST_NAME, ClipRecord, ClipStatus, Rejection, ShardManifest
from data_engine.tables import (
    DatasetPaths,
    load_clips,
    read_quarantine,
    read_sources,
    write_atomically,
    write_text,
)
from data_engine.throughput import read_throughput
from data_engine.what_if import Moved

_MAX_TILES = 24
_MAX_EXAMPLES = 30
_AT_LIMIT = 6


CARD_NAME = "DATA_CARD.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """The counts of a data set. Always: kept + rejected + failed = clips cut."""

    num_sources: int
    num_quarantined: int
    num_shots: int
    num_clips: int
    num_kept: int
    num_rejected: int
    num_failed: int
    num_shards: int
    num_sharded_clips: int
    source_hours: float
    cut_hours: float
    kept_hours: float
    num_cut_frames: int
    num_kept_frames: int
    quarantined_by: dict[str, int]
    rejected_by: dict[str, int]
    failed_by: dict[str, int]

    @property
    def adds_up(self) -> bool:
        return self.num_kept + self.num_rejected + self.num_failed == self.num_clips

    def funnel(self) -> list[tuple[str, int]]:
        """Clips left after each reason, in the order in which the reasons apply."""
        left = self.num_clips
        steps = [("cut", left)]
        for reason in Rejection:
            count = self.rejected_by.get(reason, 0)
            if count:
                left -= count
                steps.append((f"not {reason.replace('_', ' ')}", left))
        if self.num_failed:
            left -= self.num_failed
            steps.append(("not failed", left))
        return steps


def count_cut(paths: DatasetPaths) -> int:
    """Clips in the tables of the decode pass, which all later tables are made from."""
    quarantined = {source.uri for source in read_quarantine(paths)}
    cuts = (
        paths.cuts(s.source_id) for s in read_sources(paths.sources) if s.uri not in quarantined
    )
    return sum(pq.read_metadata(path).num_rows for path in cuts)


def summarize(paths: DatasetPaths, clips: Sequence[ClipRecord] | None = None) -> RunReport:
    """Count what the tables of a data set hold. `clips` stands in for all clips as they are now.

    Raises:
        TableError: the data set was not curated.
    """
    clips = load_clips(paths) if clips is None else clips
    sources = read_sources(paths.sources)
    quarantine = read_quarantine(paths)
    by_status = Counter(clip.status for clip in clips)
    manifest = read_manifest(paths)
    kept = [clip for clip in clips if clip.status is ClipStatus.KEPT]
    return RunReport(
        num_sources=len(sources),
        num_quarantined=len(quarantine),
        num_shots=len({(clip.source_id, clip.shot_index) for clip in clips}),
        num_clips=count_cut(paths),
        num_kept=by_status[ClipStatus.KEPT],
        num_rejected=by_status[ClipStatus.REJECTED],
        num_failed=by_status[ClipStatus.FAILED],
        num_shards=len(manifest.shards) if manifest else 0,
        num_sharded_clips=manifest.num_clips if manifest else 0,
        source_hours=sum(source.duration_s for source in sources) / 3600,
        cut_hours=sum(clip.duration_s for clip in clips) / 3600,
        kept_hours=sum(clip.duration_s for clip in kept) / 3600,
        num_cut_frames=sum(clip.num_frames for clip in clips),
        num_kept_frames=sum(clip.num_frames for clip in kept),
        quarantined_by=dict(Counter(source.reason for source in quarantine)),
        rejected_by=dict(Counter(str(c.rejected_by) for c in clips if c.rejected_by is not None)),
        failed_by=dict(Counter(c.error for c in clips if c.error is not None)),
    )


def kept_sheet(
    paths: DatasetPaths, clips: Sequence[ClipRecord], max_tiles: int = _MAX_TILES
) -> bytes:
    """JPEG of the middle frames of kept clips, evenly spread over the data set, with their times."""
    kept = [clip for clip in clips if clip.status is ClipStatus.KEPT]
    count = min(max_tiles, len(kept))
    chosen = [kept[len(kept) * i // count] for i in range(count)]
    return _sheet(paths, [(c, f"{_clock(c.start_s)} {c.duration_s:.1f} s") for c in chosen])


def rejected_sheet(
    paths: DatasetPaths, clips: Sequence[ClipRecord], max_tiles: int = _MAX_TILES
) -> bytes:
    """JPEG of the middle frames of rejected clips, every reason in turn, with the reason."""
    by_reason: dict[Rejection, list[ClipRecord]] = {}
    for clip in clips:
        if clip.rejected_by is not None:
            by_reason.setdefault(clip.rejected_by, []).append(clip)
    chosen: list[ClipRecord] = []
    while by_reason and len(chosen) < max_tiles:
        for reason in list(by_reason):
            chosen.append(by_reason[reason].pop(0))
            if not by_reason[reason]:
                del by_reason[reason]
    tiles = sorted(chosen[:max_tiles], key=lambda clip: str(clip.rejected_by))
    return _sheet(paths, [(clip, str(clip.rejected_by)) for clip in tiles])


def write_what_if(paths: DatasetPaths, gained: Sequence[Moved], lost: Sequence[Moved]) -> Path:
    """Write `report/what_if.jpg`: some of the clips that another choice would bring, and some that it would drop."""
    half = _MAX_TILES // 2
    tiles = [(clip, f"comes, {_clock(clip.start_s)}") for clip in gained[:half]]
    tiles += [(clip, f"goes, {clip.rejected_by}") for clip in lost[:half]]
    path = paths.report / "what_if.jpg"
    with write_atomically(path) as file:
        file.write(_sheet(paths, tiles))
    return path


def typical_clip(datasets: Sequence[DatasetPaths]) -> tuple[ClipRecord, bytes]:
    """A prompt to try: of the source with most kept clips, the one of median motion; and its first frame (JPEG).

    Raises:
        TableError: no clip was kept in any of them.
    """
    return typical_clips(datasets, 1)[0]


def typical_clips(datasets: Sequence[DatasetPaths], count: int) -> list[tuple[ClipRecord, bytes]]:
    """Several of the source with most kept clips, spread over their motion, that of median motion first.

    Raises:
        TableError: no clip was kept in any of them.
    """
    by_source: dict[str, list[tuple[float, str, ClipRecord, DatasetPaths]]] = {}
    for paths in datasets:
        for clip in load_clips(paths):
            if clip.status is ClipStatus.KEPT:
                found = (clip.score("motion") or 0.0, clip.clip_id, clip, paths)
                by_source.setdefault(clip.source_id, []).append(found)
    if not by_source:
        raise TableError("no clip was kept in any data set; curate more, or loosen the filters")
    # Of the source that gave most: what the model has seen most of.
    kept = max(by_source.values(), key=lambda clips: (len(clips), clips[0][1]))
    kept = sorted(kept, key=lambda found: found[:2])
    middle = len(kept) // 2
    spread = [middle, *(place * len(kept) // count for place in range(count))]
    chosen = [kept[place] for place in list(dict.fromkeys(spread))[:count]]
    return [(clip, _jpegs(paths, [clip])[clip.clip_id][0]) for *_, clip, paths in chosen]


def write_report(config: DataEngineConfig, paths: DatasetPaths) -> Path:
    """Write `report/index.html`, which needs no other file; its pictures, DATA_CARD.md and the pages of all clips lie
    beside it.

    Raises:
        TableError: the data set was not curated.
    """
    clips = load_clips(paths)
    report = summarize(paths, clips)
    pictures = {
        "funnel.png": plots.funnel(report.funnel()),
        "histograms.png": plots.histograms(statistics.score_panels(config.filters, clips)),
        "captions.png": plots.histograms(statistics.caption_panels(clips)),
        "kept.jpg": kept_sheet(paths, clips),
        "rejected.jpg": rejected_sheet(paths, clips),
    }
    for name, data in pictures.items():
        with write_atomically(paths.report / name) as file:
            file.write(data)
    at_limits = limit_sheets(config, paths, clips)
    described = list(read_descriptions(config, paths, clips))
    captioners = statistics.by_captioner(clips, described)
    categories = _categories(clips)
    judged = statistics.hallucination(clips, described)
    card = _template("data_card.md").render(
        **_card(config, paths, clips, report),
        captioners=captioners,
        categories=categories,
        hallucination=judged,
    )
    write_text(paths.report / CARD_NAME, card + "\n")
    page = _template("report.html").render(
        report=report,
        sources=statistics.by_source(clips),
        at_limits={name: _data_uri("at.jpg", sheet) for name, sheet in at_limits.items()},
        quarantine=read_quarantine(paths),
        throughput=read_throughput(paths),
        captioners=captioners,
        categories=categories,
        hallucination=judged,
        examples=[c for c in clips if c.status is ClipStatus.KEPT][:_MAX_EXAMPLES],
        backends=_backends(clips),
        attributions=sorted({c.attribution for c in clips if c.attribution}),
        config=config.model_dump_json(indent=1),
        pictures={name: _data_uri(name, data) for name, data in pictures.items()},
    )
    write_clip_pages(paths)
    with write_atomically(paths.report / "index.html") as file:
        file.write(page.encode())
    return paths.report / "index.html"


def limit_sheets(
    config: DataEngineConfig, paths: DatasetPaths, clips: Sequence[ClipRecord]
) -> dict[str, bytes]:
    """A contact sheet for each limit in force: the clips nearest to it on either side."""
    return {
        name: _sheet(paths, [(at.clip, _at_limit(at)) for at in near])
        for name, near in statistics.at_limits(config.filters, clips, _AT_LIMIT).items()
    }


def _card(
    config: DataEngineConfig, paths: DatasetPaths, clips: Sequence[ClipRecord], report: RunReport
) -> dict[str, Any]:
    kept = [clip for clip in clips if clip.status is ClipStatus.KEPT]
    manifest = read_manifest(paths)
    return {
        "report": report,
        "attributions": sorted({clip.attribution for clip in clips if clip.attribution}),
        "sources": statistics.by_source(clips),
        "subsets": statistics.counted([name for clip in kept for name in clip.subsets]),
        "spreads": statistics.spreads(config.filters, clips),
        "lengths": statistics.caption_lengths(clips),
        "length_edges": statistics.LENGTH_EDGES,
        "buckets": statistics.counted(
            [s.bucket for s in (manifest.shards if manifest else ()) for _ in s.samples]
        ),
        "models": statistics.counted(
            [
                f"{clip.captions[0].source}: {clip.captions[0].model}"
                for clip in kept
                if clip.captions
            ]
        ),
        "backends": _backends(clips),
    }


def _categories(clips: Sequence[ClipRecord]) -> Mapping[str, int]:
    return statistics.counted(
        [c.category.name for c in clips if c.category is not None and c.status is ClipStatus.KEPT]
    )


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("data_engine", "templates"),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=name.endswith(".md"),
    )
    return environment.get_template(name)


def _at_limit(at: statistics.AtLimit) -> str:
    return f"{at.value:.3g} {'kept' if at.is_inside else 'dropped'}"


def read_manifest(paths: DatasetPaths) -> ShardManifest | None:
    """The manifest of the shards, or None where there are none yet."""
    path = paths.shards / MANIFEST_NAME
    return ShardManifest.from_json(path.read_bytes()) if path.exists() else None


class _Shown(Protocol):
    """A clip whose frames can be found."""

    @property
    def clip_id(self) -> str: ...

    @property
    def source_id(self) -> str: ...


def _sheet(paths: DatasetPaths, tiles: Sequence[tuple[_Shown, str]]) -> bytes:
    jpegs = _jpegs(paths, [clip for clip, _ in tiles])
    # A clip that is shorter than the sampling interval may have no frame.
    return plots.contact_sheet(
        [(frames[len(frames) // 2], text) for c, text in tiles if (frames := jpegs.get(c.clip_id))]
    )


def _jpegs(paths: DatasetPaths, clips: Sequence[_Shown]) -> dict[str, list[bytes]]:
    """The kept frames of clips, in order of time."""
    wanted: dict[str, list[str]] = {}
    for clip in clips:
        wanted.setdefault(clip.source_id, []).append(clip.clip_id)
    jpegs: dict[str, list[bytes]] = {}
    for source_id, clip_ids in wanted.items():
        rows = pq.read_table(paths.frames(source_id), filters=[("clip_id", "in", clip_ids)])
        for row in rows.sort_by("time_s").to_pylist():
            jpegs.setdefault(row["clip_id"], []).append(row["jpeg"])
    return jpegs


def _backends(clips: Sequence[ClipRecord]) -> list[tuple[str, str]]:
    return sorted({(name, s.backend) for clip in clips for name, s in clip.scores.items()})


def _data_uri(name: str, data: bytes) -> str:
    kind = "jpeg" if name.endswith(".jpg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _clock(time_s: float) -> str:
    return f"{int(time_s) // 60}:{int(time_s) % 60:02d}"
