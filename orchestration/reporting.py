"""What the Dagster UI shows of a step: log lines while it runs, one line if it fails, metadata after it."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from data_engine.schema import MANIFEST_NAME, ClipRecord, ClipStatus, ShardManifest
from data_engine.tables import DatasetPaths, read_clips
from orchestration.cli import USER_ERRORS

if TYPE_CHECKING:
    # These import Ray, OpenCV and matplotlib, which loading the definitions must not pay for.
    from data_engine.ray_rows import OnProgress, Progress
    from data_engine.report import RunReport

MAX_REPORT_BYTES = 200_000
"""Of one Markdown report. Dagster loads the metadata of every materialisation that a page lists."""

_MAX_SHEET_BYTES = 60_000
_MAX_ROWS = 50
_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def clear_failures() -> Generator[None]:
    """Show a mistake of the user as one line instead of a traceback."""
    try:
        yield
    except USER_ERRORS as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def log_progress(context: dg.AssetExecutionContext) -> "OnProgress":
    """A callback that writes a log line every few seconds, and one when a step is done."""
    last_line_s: dict[str, float] = {}
    finished: set[str] = set()

    def log(progress: "Progress") -> None:
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
    for table in tables:
        latest.update((record.clip_id, record) for record in read_clips(table))
    return list(latest.values())


def clip_metadata(paths: DatasetPaths, clips: Sequence[ClipRecord]) -> dict[str, Any]:
    """Counts, hours, and a report with the funnel, the reasons and pictures of these clips."""
    from data_engine import plots
    from data_engine.report import kept_sheet, rejected_sheet

    report = _count(paths, clips)
    sections = {"Funnel": picture("funnel", plots.funnel(report.funnel()))}
    if report.num_kept:
        kept = _fitting(lambda tiles: kept_sheet(paths, clips, tiles))
        sections["Kept"] = picture("kept clips", kept)
    if report.num_rejected:
        rejected = _fitting(lambda tiles: rejected_sheet(paths, clips, tiles))
        sections["Rejected"] = picture("rejected clips", rejected)
    if report.failed_by:
        sections["Failed"] = table(("clips", "why"), [(n, e) for e, n in report.failed_by.items()])
    return {
        "dagster/row_count": len(clips),
        "clips_cut": report.num_clips,
        "clips_kept": report.num_kept,
        "clips_rejected": report.num_rejected,
        "clips_failed": report.num_failed,
        "kept_fraction": report.num_kept / max(1, report.num_clips),
        "source_hours": report.source_hours,
        "kept_hours": report.kept_hours,
        "report": markdown(sections),
    }


def source_metadata(paths: DatasetPaths) -> dict[str, Any]:
    """How many sources there are, how long they are, and what each is."""
    from data_engine.tables import read_quarantine, read_sources

    sources, quarantined = read_sources(paths.sources), read_quarantine(paths.quarantine)
    columns = ("source", "codec", "size", "fps", "seconds")
    rows = [
        (
            Path(s.uri).name,
            s.codec,
            f"{s.width_px} x {s.height_px}",
            f"{s.fps:g}",
            f"{s.duration_s:.1f}",
        )
        for s in sources[:_MAX_ROWS]
    ]
    sections = {"Readable": table(columns, rows)}
    if quarantined:
        bad = [(Path(q.uri).name, q.reason, q.detail) for q in quarantined[:_MAX_ROWS]]
        sections["Quarantined"] = table(("source", "reason", "detail"), bad)
    return {
        "dagster/row_count": len(sources),
        "sources_read": len(sources),
        "sources_quarantined": len(quarantined),
        "source_hours": sum(source.duration_s for source in sources) / 3600,
        "report": markdown(sections),
    }


def shard_metadata(paths: DatasetPaths) -> dict[str, Any]:
    manifest = ShardManifest.from_json((paths.shards / MANIFEST_NAME).read_bytes())
    return {
        "dagster/row_count": manifest.num_clips,
        "shards": len(manifest.shards),
        "shard_bytes": sum(shard.size_bytes for shard in manifest.shards),
    }


def picture(name: str, data: bytes) -> str:
    """Markdown of a PNG or JPEG that carries its own bytes."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"![{name}](data:image/{kind};base64,{base64.b64encode(data).decode()})"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = (" | ".join(str(cell).replace("|", "/") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells)


def markdown(sections: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(
        "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    )


def _count(paths: DatasetPaths, clips: Sequence[ClipRecord]) -> "RunReport":
    """The counts of the data set with these clips, whatever later tables of an earlier run say."""
    from data_engine.report import summarize

    by_status = Counter(clip.status for clip in clips)
    return replace(
        summarize(paths),
        num_clips=len(clips),
        num_kept=by_status[ClipStatus.KEPT],
        num_rejected=by_status[ClipStatus.REJECTED],
        num_failed=by_status[ClipStatus.FAILED],
        kept_hours=sum(c.duration_s for c in clips if c.status is ClipStatus.KEPT) / 3600,
        rejected_by=dict(Counter(str(c.rejected_by) for c in clips if c.rejected_by is not None)),
        failed_by=dict(Counter(c.error for c in clips if c.error is not None)),
    )


def _fitting(draw: Callable[[int], bytes]) -> bytes:
    """A contact sheet with as many tiles as fit into its share of a report."""
    for num_tiles in (12, 8, 4, 2):
        sheet = draw(num_tiles)
        if len(sheet) <= _MAX_SHEET_BYTES:
            return sheet
    return draw(1)
