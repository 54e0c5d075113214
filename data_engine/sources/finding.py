"""Finding files by folder or glob, on disk or in a bucket. What is there and is no file is said, too."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data_engine.dataset_paths import DATASET_FOLDERS, is_dataset
from data_engine.errors import UnreadableSourceError
from data_engine.schema import QuarantinedSource
from data_engine.sources import ATTRIBUTIONS_NAME, quarantined, storable_name
from data_engine.sources.storage import (
    StoredFile,
    filesystem,
    is_url,
    reach,
    stat_file,
    stored_file,
)

_MAGIC = frozenset("*?[")


@dataclass(slots=True)
class Found:
    """Files by their names below what the user named."""

    is_folder: bool = False
    files: dict[str, StoredFile] = field(default_factory=dict[str, StoredFile])
    unusable: list[QuarantinedSource] = field(default_factory=list[QuarantinedSource])
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Files of a folder with none of the suffixes, by their own; without those that belong to a data set."""

    def add(self, name: str, location: str) -> None:
        try:
            self.files[storable_name(name)] = stat_file(location)
        except UnreadableSourceError as error:
            self.refuse(name, error)

    def refuse(self, name: str, error: UnreadableSourceError) -> None:
        self.unusable.append(quarantined(name, error))


def find_files(source: str, suffixes: frozenset[str]) -> Found:
    """The file `source`; or files below it of these suffixes, if a folder; or all that match it as a glob.

    Raises:
        SourceError: the package of this kind of URL is not installed.
        UnreadableSourceError: a bucket cannot be reached.
    """
    return _find_remote(source, suffixes) if is_url(source) else _find_local(source, suffixes)


def _find_local(source: str, suffixes: frozenset[str]) -> Found:
    # abspath and not resolve: names are those the user sees, links included.
    given = Path(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100  # absolute, but links are not followed
    found = Found(is_folder=given.is_dir())
    if found.is_folder:
        for path in _walk(given, found):
            if path.suffix.lower() in suffixes:
                found.add(path.relative_to(given).as_posix(), str(path))
            elif path.name != ATTRIBUTIONS_NAME and not is_dataset(path.parent):
                found.skipped[path.suffix.lower()] += 1
    elif given.exists():
        found.add(given.name, str(given))
    else:
        below = Path(_fixed_part(str(given)))
        for path in sorted(Path(given.anchor).glob(str(given.relative_to(given.anchor)))):
            inside = path.relative_to(below)
            is_own = any(_is_of_dataset(below / folder) for folder in inside.parents)
            if not is_own and not path.is_dir():
                found.add(inside.as_posix(), str(path))
    return found


def _walk(folder: Path, found: Found) -> Iterator[Path]:
    """Files below a folder in a fixed order. A folder is entered once, so that links cannot lead in circles."""

    def note(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        found.refuse(name, UnreadableSourceError("unreadable_folder", str(error.strerror)))

    entered: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, onerror=note, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # What the engine made of videos is not taken for more of them.
        folders[:] = [name for name in folders if not _is_of_dataset(Path(root) / name)]
        # Links last: a folder is entered under its own name where it has one here.
        folders.sort(key=lambda name: ((Path(root) / name).is_symlink(), name))
        yield from (Path(root) / name for name in sorted(names))


def _is_of_dataset(folder: Path) -> bool:
    return folder.name in DATASET_FOLDERS and is_dataset(folder.parent)


def _find_remote(source: str, suffixes: frozenset[str]) -> Found:
    files, path = filesystem(source)
    scheme = source.split("://", maxsplit=1)[0].lower()
    # Without it, what another run of this process listed would be shown again.
    reach(files.invalidate_cache)
    if not path.endswith("/") and reach(lambda: files.isfile(path)):
        found = Found()
        found.add(path.rsplit("/", maxsplit=1)[-1], source)
        return found
    listed: dict[str, dict[str, Any]]
    if reach(lambda: files.isdir(path)):
        found, below = Found(is_folder=True), path.rstrip("/") + "/"
        listed = reach(lambda: files.find(path, detail=True))
    else:
        found, below = Found(), _fixed_part(path)
        listed = reach(lambda: files.glob(path, detail=True))
    for name in sorted(listed):
        suffix = PurePosixPath(name).suffix.lower()
        is_wanted = not found.is_folder or suffix in suffixes
        if not is_wanted and listed[name]["type"] == "file":
            found.skipped[suffix] += 1
        if is_wanted and listed[name]["type"] == "file":
            found.files[name.removeprefix(below)] = stored_file(f"{scheme}://{name}", listed[name])
    return found


def _fixed_part(pattern: str) -> str:
    """The folder in front of the first wildcard, with its last slash."""
    magic = next((i for i, sign in enumerate(pattern) if sign in _MAGIC), len(pattern))
    return pattern[: pattern.rfind("/", 0, magic) + 1]
