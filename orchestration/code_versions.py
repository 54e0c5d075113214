"""The code version of an asset: a hash of the modules that decide what it holds.

With changed code Dagster marks the asset as out of date. Read from the files, so that nothing heavy is imported.
"""

import hashlib
from pathlib import Path

import data_engine

_PATTERNS: dict[str, tuple[str, ...]] = {
    "probe": ("probe.py", "container.py", "sources/*.py", "steps/probing.py"),
    "score": (
        *(
            "decode.py",
            "observing.py",
            "shots.py",
            "transitions.py",
            "dissolves.py",
            "letterbox.py",
        ),
        *("clips.py", "parts.py", "scoring.py", "steadiness.py", "scores/*.py", "steps/scoring.py"),
    ),
    "decide": ("filters.py", "duplicates.py", "steps/deciding.py"),
    "caption": (
        *("caption_*.py", "captioning/*.py", "describing.py", "hallucination/*.py"),
        "steps/captioning.py",
    ),
    "shard": ("shard_writer.py", "cutting.py", "stream_copy.py", "buckets.py", "steps/sharding.py"),
    "report": ("report.py", "statistics.py", "plots.py", "thumbnails.py", "templates/*"),
}


def code_version(step: str) -> str:
    """A short hash that changes with the code of a step of the data engine."""
    root = Path(data_engine.__file__).parent
    found = sorted(path for pattern in _PATTERNS[step] for path in root.glob(pattern))
    content = hashlib.sha256()
    for path in found:
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:12]
