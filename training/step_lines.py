"""Files with one JSON object per optimizer step, as a stage writes them while it trains."""

import json
import os
from pathlib import Path
from typing import Any

_LAST_BYTES = 100_000


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The complete lines of such a file; a killed writer may have left half a line at its end."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]


def read_last_steps(path: Path) -> list[dict[str, Any]]:
    """Those of the last steps alone: a file of a long stage takes seconds to read."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES)
        file.seek(start)
        lines = file.read().splitlines(keepends=True)
    whole = lines[1:] if start else lines
    return [json.loads(line) for line in whole if line.endswith(b"\n")]


def forget_steps_after(path: Path, step: int) -> None:
    """Drop what lies beyond the checkpoint that a stage goes on from; the steps come again."""
    if not path.exists():
        return
    kept = [line for line in read_steps(path) if line["step"] <= step]
    # A new file instead of a shortened one, so that whoever follows it notices.
    rewritten = path.with_suffix(".tmp")
    rewritten.write_text("".join(json.dumps(line) + "\n" for line in kept))
    rewritten.replace(path)
