"""What the Dagster UI shows of a step: log lines while it runs, one line if it fails, metadata after it."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from data_engine.clip_pages import INDEX_NAME
from data_engine.schema import MANIFEST_NAME, ClipRecord, ClipStatus, ShardManifest
from data_engine.tables import DatasetPaths, read_clips
from orchestration.errors import PASSING_ERRORS, USER_ERRORS
from orchestration.links import file_link
from orchestration.metadata import picture, table
from orchestration.work import OnWorkProgress, WorkProgress

if TYPE_CHECKING:
    # These import Ray, OpenCV and matplotlib, which loading the definitions must not pay for.
    from data_engine.config import DataEngineConfig

_MAX_SHEET_BYTES = 60_000
_MAX_CAPTIONS = 12
_MAX_CARD = 40_000
"""Characters."""
_MAX_LINEAGE_BYTES = 30_000
_SECONDS_BETWEEN_LINES = 5.0


AGAIN = dg.RetryPolicy(max_retries=2, delay=10)
"""A step whose processes or cluster were lost goes on where it was; mistakes of the user are not tried again."""


@contextmanager
def clear_failures() -> Generator[None]:
    """Show a mistake of the user, or a lost process, as one line instead of a traceback."""
    try:
        yield
    except USER_ERRORS as error:
        may_pass = isinstance(error, PASSING_ERRORS)
        raise dg.Failure(description=str(error), allow_retries=may_pass) from error


def log_progress(context: dg.AssetExecutionContext) -> OnWorkProgress:
    """A callback that writes a log line every few seconds, and one when a step is done."""
    last_line_s: dict[str, float] = {}
    finished: set[str] = set()

    def log(progress: WorkProgress) -> None:
        step, now_s = progress.step, time.monotonic()
        is_finished = progress.done >= progress.total
        too_soon = now_s - last_line_s.get(step, -_SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES
        if step in finished or (too_soon and not is_finished):
            return
        last_line_s[step] = now_s
        if is_finished:
            finished.add(step)
        context.log.info(f"{step}: {progress.done:.0f} of {progress.total:.0f} {progress.unit}")

    return log


def clips_after(*tables: Path) -> list[ClipRecord]:
    """Every clip that was cut, each as the last of these tables that has it left it."""
    latest: dict[str, ClipRecord] = {}
    for path in tables:
        latest.update((record.clip_id, record) for record in read_clips(path))
    return list(latest.values())


def clip_metadata(paths: DatasetPaths, clips: Sequence[ClipRecord]) -> dict[str, Any]:
    """Counts, hours, and a report with the funnel, the reasons and pictures of these clips."""
    from data_engine import plots
    from data_engine.report import kept_sheet, rejected_sheet, summarize

    report = summarize(paths, clips)
    sections = {"Funnel": picture("funnel", plots.funnel(report.funnel()))}
    if report.num_kept:
        kept = _fitting(lambda tiles: kept_sheet(paths, clips, tiles))
        sections["Kept"] = picture("kept clips", kept)
    if report.num_rejected:
        rejected = _fitting(lambda tiles: rejected_sheet(paths, clips, tiles))
        sections["Rejected"] = picture("rejected clips", rejected)
    captioned = [c for c in clips if c.captions and c.status is ClipStatus.KEPT][:_MAX_CAPTIONS]
    if captioned:
        rows = [(f"{c.start_s:.1f} s", c.captions[0].text) for c in captioned]
        sections["Captions"] = table(("from", "caption"), rows)
    if report.failed_by:
        sections["Failed"] = table(("clips", "why"), [(n, e) for e, n in report.failed_by.items()])
    return {
        "report": sections,
        "clips_cut": report.num_clips,
        "clips_kept": report.num_kept,
        "clips_rejected": report.num_rejected,
        "clips_failed": report.num_failed,
        "kept_fraction": round(report.num_kept / max(1, report.num_clips), 4),
        "source_hours": round(report.source_hours, 4),
        "kept_hours": round(report.kept_hours, 4),
        "kept_frames": report.num_kept_frames,
    }


def score_metadata(config: "DataEngineConfig", clips: Sequence[ClipRecord]) -> dict[str, Any]:
    """How many clips there are, and a report with the histogram of each score and the limits in force."""
    from data_engine import plots
    from data_engine.drift import deciles
    from data_engine.statistics import score_panels

    failed = Counter(clip.error for clip in clips if clip.error is not None)
    sections: dict[str, str] = {}
    if panels := score_panels(config.filters, clips):
        sections["Scores"] = picture("score histograms", plots.histograms(panels))
    if failed:
        sections["Failed"] = table(("clips", "why"), [(n, e) for e, n in failed.items()])
    return {
        "report": sections,
        "score_deciles": {name: asdict(d) for name, d in deciles(clips).items()},
        "clips_cut": len(clips),
        "clips_failed": sum(failed.values()),
        "clip_hours": round(sum(clip.duration_s for clip in clips) / 3600, 4),
    }


def source_metadata(paths: DatasetPaths) -> dict[str, Any]:
    """How many sources there are, how long they are, and what each is."""
    from data_engine.tables import read_quarantine, read_sources

    sources, quarantined = read_sources(paths.sources), read_quarantine(paths)
    columns = ("source", "codec", "size", "fps", "seconds")
    rows = [
        (
            s.uri,
            s.codec,
            f"{s.width_px} x {s.height_px}",
            f"{s.fps:g}",
            f"{s.duration_s:.1f}",
        )
        for s in sources
    ]
    sections = {"Readable": table(columns, rows)}
    if quarantined:
        bad = [(q.uri, q.reason, q.detail) for q in quarantined]
        sections["Quarantined"] = table(("source", "reason", "detail"), bad)
    return {
        "report": sections,
        "sources_read": len(sources),
        "sources_quarantined": len(quarantined),
        "source_hours": round(sum(source.duration_s for source in sources) / 3600, 4),
    }


def shard_metadata(paths: DatasetPaths, pages: str) -> dict[str, Any]:
    """Counts, and in which shard each clip is and from which second of which source: of the first ones here, of all on
    `pages`, whose place is below the home folder.
    """
    manifest = ShardManifest.from_json((paths.shards / MANIFEST_NAME).read_bytes())
    clips = {clip.clip_id: clip for clip in read_clips(paths.sharded_clips)}
    places = [(shard.name, clips[s.clip_id]) for shard in manifest.shards for s in shard.samples]
    rows: list[dg.TableRecord] = []
    room = _MAX_LINEAGE_BYTES
    for shard, clip in places:
        row = dg.TableRecord(
            {
                "shard": shard,
                "clip": clip.clip_id,
                "source": clip.source_uri,
                "start_s": round(clip.start_s, 3),
                "end_s": round(clip.end_s, 3),
            }
        )
        room -= len(dg.serialize_value(row))
        if room < 0:
            break
        rows.append(row)
    return {
        "lineage": dg.MetadataValue.table(rows),
        "lineage_of_all_clips": file_link(f"{pages}/{INDEX_NAME}"),
        "shards": len(manifest.shards),
        "shard_bytes": sum(shard.size_bytes for shard in manifest.shards),
    }


def report_metadata(config: "DataEngineConfig", paths: DatasetPaths) -> dict[str, Any]:
    """The data card, the score histograms, and the clips on both sides of each limit."""
    from data_engine import plots
    from data_engine.report import CARD_NAME, limit_sheets
    from data_engine.statistics import score_panels
    from data_engine.tables import load_clips
    from data_engine.throughput import read_throughput

    clips, stages = load_clips(paths), read_throughput(paths)
    rows = [(t.name, f"{t.amount:g} {t.unit}", f"{t.seconds:.1f}") for t in stages]
    sections = {
        "Data card": _beginning((paths.report / CARD_NAME).read_text().partition("\n")[2]),
        "Throughput": table(("stage", "of", "seconds"), rows),
    }
    if panels := score_panels(config.filters, clips):
        sections["Scores"] = picture("score histograms", plots.histograms(panels))
    for name, sheet in limit_sheets(config, paths, clips).items():
        sections[f"Nearest to {name}"] = picture(f"clips at {name}", sheet)
    return {"report": sections, **stage_speeds(paths, *(stage.name for stage in stages))}


def stage_speeds(paths: DatasetPaths, *stages: str) -> dict[str, float]:
    """Seconds and speed of stages of the data engine, when each last had work to do."""
    from data_engine.throughput import read_throughput

    shown: dict[str, float] = {}
    for found in read_throughput(paths):
        if found.name in stages:
            unit = "video_s" if found.unit == "s of video" else found.unit
            shown[f"{found.name}_seconds"] = round(found.seconds, 1)
            shown[f"{found.name}_{unit}_per_s"] = round(found.amount / max(found.seconds, 1e-3), 3)
    return shown


def column_schema(table: Path) -> dg.TableSchema:
    """The columns of a Parquet table and their types."""
    import pyarrow.parquet as pq

    columns = [dg.TableColumn(f.name, str(f.type)) for f in pq.read_schema(table)]
    return dg.TableSchema(columns)


def _beginning(text: str) -> str:
    """Of a data card, whose list of whom to credit may be longer than all else."""
    if len(text) <= _MAX_CARD:
        return text
    return f"{text[:_MAX_CARD]}\n\n... the rest is in DATA_CARD.md"


def _fitting(draw: Callable[[int], bytes]) -> bytes:
    """A contact sheet with as many tiles as fit into its share of a report."""
    for num_tiles in (12, 8, 4, 2):
        sheet = draw(num_tiles)
        if len(sheet) <= _MAX_SHEET_BYTES:
            return sheet
    return draw(1)
