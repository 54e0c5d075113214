"""What may be curated: the batches of sources that lie in one place, a folder or a bucket."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from data_engine.sources import TAR_SUFFIX, VIDEO_SUFFIXES
from data_engine.sources.finding import find_files
from data_engine.sources.manifests import MANIFEST_SUFFIXES


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """A folder with videos or tars of videos at any depth, or a manifest."""

    name: str
    fingerprint: str
    """Changes when a file of it is added, changed or removed."""


def find_batches(place: str) -> list[SourceBatch]:
    """The batches right below `place`, by name. What changes in the files that a manifest names is not seen.

    Raises:
        SourceError: the package of this kind of URL is not installed.
        UnreadableSourceError: the bucket cannot be reached.
    """
    found = find_files(place, frozenset({*VIDEO_SUFFIXES, TAR_SUFFIX, *MANIFEST_SUFFIXES}))
    files: dict[str, list[str]] = defaultdict(list)
    holds_videos: set[str] = set()
    for name, stored in found.files.items():
        batch, _, inside = name.partition("/")
        is_manifest = name.endswith(tuple(MANIFEST_SUFFIXES))
        # A manifest inside a folder is a file like any other, and a lone video belongs to no batch.
        if bool(inside) != is_manifest:
            holds_videos.add(batch)
        if inside or is_manifest:
            files[batch].append(f"{name} {stored.size_bytes} {stored.version}")
    return [SourceBatch(name, _digest(files[name])) for name in sorted(holds_videos & files.keys())]


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
