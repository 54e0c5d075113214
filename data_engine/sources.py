"""From what the user names (a file, a folder, a glob) to a list of files that may be videos."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from data_engine.errors import SourceError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"}
)
ATTRIBUTIONS_NAME = "attributions.json"
"""A file that may lie beside videos: {"file name": "whom to credit, and the licence"}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file that may be a video. `uri` is its path as it will be stored in the tables."""

    path: Path
    attribution: str | None = None

    @property
    def uri(self) -> str:
        return str(self.path)


def list_sources(source: str) -> list[SourceFile]:
    """Every candidate file below `source`, sorted by path.

    A folder is searched recursively for files with a video suffix; a file or a glob is taken as it is, so that
    a wrong choice of the user lands in the quarantine table rather than vanishing.

    Raises:
        SourceError: nothing is there.
    """
    given = Path(source).expanduser()
    if given.is_dir():
        files = [path for path in given.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
        looked_for = f"files ending in {', '.join(sorted(VIDEO_SUFFIXES))}"
    elif given.is_file():
        files, looked_for = [given], ""
    else:
        files = list(Path(given.anchor).glob(str(given.relative_to(given.anchor))))
        looked_for = "a file, a folder or a glob"
    found = sorted(path.resolve() for path in files if path.is_file())
    if not found:
        raise SourceError(f"--source {source} holds no videos; expected {looked_for}")
    return [SourceFile(path=path, attribution=_attribution(path)) for path in dict.fromkeys(found)]


def content_id(path: Path) -> str:
    """A hash of the bytes of a file: the same content under two names is one source."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _attribution(path: Path) -> str | None:
    listed = path.parent / ATTRIBUTIONS_NAME
    if not listed.is_file():
        return None
    try:
        attributions = json.loads(listed.read_text())
    except json.JSONDecodeError as error:
        raise SourceError(f"{listed} is not valid JSON ({error}); mend or remove it") from error
    return attributions.get(path.name)
