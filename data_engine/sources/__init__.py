"""From what the user names with `--source` to a list of files that may be videos."""

import json
from dataclasses import asdict, dataclass, field
from typing import Self

from data_engine.errors import UnreadableSourceError
from data_engine.schema import QuarantinedSource

VIDEO_SUFFIXES = frozenset(
    (
        *(
            ".mp4",
            ".m4v",
            ".mov",
            ".qt",
            ".3gp",
            ".3g2",
            ".mkv",
            ".webm",
            ".avi",
            ".divx",
            ".flv",
            ".f4v",
        ),
        *(
            ".mpg",
            ".mpeg",
            ".mpe",
            ".m2v",
            ".vob",
            ".ts",
            ".mts",
            ".m2ts",
            ".m2t",
            ".wmv",
            ".asf",
            ".ogv",
        ),
    )
)
"""In any case. What they hold must be of a kind that `container.py` opens."""
TAR_SUFFIX = ".tar"
ATTRIBUTIONS_NAME = "attributions.json"
"""A file that may lie beside videos: {"file name": "whom to credit, and the licence"}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file that may be a video, and what came with it."""

    uri: str
    """Its name below `--source`, the same on every machine."""
    location: str
    """What to open, as `storage.py` explains."""
    other_uris: tuple[str, ...] = ()
    """Further names of the same file, such as links."""
    size_bytes: int
    version: str = ""
    """Changes when the bytes change: a time, or the ETag of a bucket."""
    attribution: str | None = None
    captions: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        tuples = {name: tuple(data[name]) for name in ("other_uris", "captions")}
        return cls(**(data | tuples))


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceListing:
    """Everything that a `--source` names, by `uri`: what may be a video, and what cannot be one."""

    files: list[SourceFile]
    unusable: list[QuarantinedSource]
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    """How many files of a folder have a suffix that is not a video's, by suffix."""


def storable_name(name: str) -> str:
    """The name itself.

    Raises:
        UnreadableSourceError: it has bytes that are no UTF-8, so that no table could hold it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UnreadableSourceError("bad_name", "its name is no UTF-8; rename it") from error
    return name


def quarantined(uri: str, error: UnreadableSourceError) -> QuarantinedSource:
    """The row for a source that cannot be used; bytes that are no UTF-8 are spelt out in its name."""
    shown = uri.encode(errors="backslashreplace").decode()
    return QuarantinedSource(uri=shown, reason=error.reason, detail=error.detail)
