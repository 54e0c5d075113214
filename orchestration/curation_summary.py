"""What a person reads at the end of a command on a data set: nothing here waits for torch."""

from pathlib import Path

from rich.console import Console

from data_engine.config import FilterConfig
from data_engine.lineage import Lineage
from data_engine.report import RunReport, write_what_if
from data_engine.tables import DatasetPaths, read_counts
from data_engine.throughput import read_throughput
from data_engine.what_if import what_if


def short(path: Path) -> Path:
    """The path as seen from here, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def print_report(console: Console, report: RunReport, dataset: Path) -> None:
    lines = [
        f"data set: {short(dataset)}",
        f"sources: {report.num_sources} read, {report.num_quarantined} quarantined, "
        f"{report.source_hours * 60:.1f} minutes, {report.num_shots} shots",
    ]
    lines += [f"  quarantined: {n} x {reason}" for reason, n in report.quarantined_by.items()]
    paths = DatasetPaths(dataset)
    lines += [f"  skipped: {n} x {suffix}" for suffix, n in read_counts(paths.skipped).items()]
    lines += [f"  damaged: {n} frames of {uri}" for uri, n in read_counts(paths.damaged).items()]
    for name, left in report.funnel():
        lines.append(f"  {left:5d}  {name}")
    lines += [
        f"clips: {report.num_kept} kept + {report.num_rejected} rejected + {report.num_failed} failed "
        f"= {report.num_clips} cut",
        f"shards: {report.num_shards} with {report.num_sharded_clips} clips, "
        f"{report.kept_hours * 60:.1f} minutes, {report.num_kept_frames} frames",
    ]
    lines += [f"failed: {count} x {error}" for error, count in report.failed_by.items()]
    if stages := read_throughput(DatasetPaths(dataset)):
        took = ", ".join(f"{stage.name} {stage.seconds:.0f} s" for stage in stages)
        lines.append(f"stages, when last they had work to do: {took}")
    console.print("\n".join(lines), highlight=False, markup=False)


def print_what_if(
    console: Console, paths: DatasetPaths, now: FilterConfig, then: FilterConfig
) -> None:
    """A table of both choices, and a contact sheet of the clips that come and go."""
    found = what_if(paths, now, then)
    rows = [
        ("kept", found.now.num_kept, found.then.num_kept),
        ("minutes kept", found.now.kept_hours * 60, found.then.kept_hours * 60),
        ("not scored far enough", found.now.num_unknown, found.then.num_unknown),
    ]
    reasons = dict.fromkeys([*found.now.rejected_by, *found.then.rejected_by])
    for reason in reasons:
        counts = found.now.rejected_by.get(reason, 0), found.then.rejected_by.get(reason, 0)
        rows.append((reason.replace("_", " "), *counts))
    lines = [f"{'':22}{'now':>8}{'then':>8}"]
    lines += [
        f"{name:22}{_number(before):>8}{_number(after):>8}"
        for name, before, after in rows
        if before or after
    ]
    lines.append(f"{len(found.gained)} clips would come, {len(found.lost)} would go")
    if found.gained or found.lost:
        sheet = write_what_if(paths, found.gained, found.lost)
        lines.append(f"pictures of them: {short(sheet)}")
    console.print("\n".join(lines), highlight=False, markup=False)


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def print_lineage(console: Console, found: Lineage) -> None:
    clip, source = found.clip, found.source
    reason = clip.rejected_by or clip.error
    lines = [
        f"clip: {clip.clip_id}, {clip.status}" + (f" ({reason})" if reason else ""),
        f"source: {source.uri}, from {clip.start_s:.3f} s to {clip.end_s:.3f} s, shot {clip.shot_index}",
        f"file: {source.location}",
        f"sha256 of the file begins with: {source.source_id}",
    ]
    lines += [
        f"  {name} {score.value:.4g}, by {score.backend}"
        for name, score in sorted(clip.scores.items())
    ]
    lines += [f"caption by {c.source}, {c.model}: {c.text}" for c in clip.captions]
    if clip.duplicate_of is not None:
        lines.append(f"near-duplicate of: {clip.duplicate_of}")
    if found.shard is not None:
        lines.append(f"shard: {found.shard}")
        lines += [
            f"  .{extension}: {member.size_bytes} bytes at {member.offset}"
            for extension, member in sorted(found.members.items())
        ]
    console.print("\n".join(lines), highlight=False, markup=False)
