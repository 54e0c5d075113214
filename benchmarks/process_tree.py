"""CPU seconds and memory of a process with all that it starts, from /proc (Linux only); standard library alone."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    parent: int
    own_cpu_s: float
    ended_children_cpu_s: float
    resident_mb: float


def tree_of(root: int) -> dict[int, Process]:
    """A process and all its descendants, by pid."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        user, system, children_user, children_system = (int(ticks) for ticks in fields[11:15])
        found[int(entry.name)] = Process(
            parent=int(fields[1]),
            own_cpu_s=(user + system) / _TICKS_A_SECOND,
            ended_children_cpu_s=(children_user + children_system) / _TICKS_A_SECOND,
            resident_mb=int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        )
    inside = {root}
    while more := {pid for pid, p in found.items() if p.parent in inside} - inside:
        inside |= more
    return {pid: found[pid] for pid in inside if pid in found}


def total_cpu_s(root: int, seen: dict[int, Process]) -> float:
    """Of a tree. A parent that waits for its children knows of those that were too short to be seen."""
    of_children = sum(total_cpu_s(pid, seen) for pid, p in seen.items() if p.parent == root)
    known = seen[root]
    return known.own_cpu_s + max(known.ended_children_cpu_s, of_children)
