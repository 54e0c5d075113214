"""A file of prompts, one video a line: plain text, CSV or JSONL."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from training.errors import GenerateError
from training.generate_request import GenerateRequest, GenerateTask

COLUMNS = ("prompt", "class", "negative_prompt", "seed", "image", "video", "task")

_Lines = Iterator[tuple[int, dict[str, Any]]]
"""Numbers of lines, and their columns."""


def read_prompts(path: Path, common: GenerateRequest) -> list[GenerateRequest]:
    """One request for each line, with the settings of `common` where the line has no column for them.

    A .txt file holds a prompt in each line that is not empty. A .csv file with a header, or a .jsonl file, has columns
    `COLUMNS`; images and videos are paths, below the folder of the file or absolute.

    Raises:
        GenerateError: the file is missing or of another kind, or a line does not fit; the message names the line.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise GenerateError(f"--prompts {path} does not end in {', '.join(_READERS)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise GenerateError(f"--prompts {path} does not exist") from error
    except UnicodeDecodeError as error:
        raise GenerateError(f"--prompts {path} is not text in UTF-8 ({error})") from error
    requests: list[GenerateRequest] = []
    try:
        for line, columns in reader(text):
            try:
                requests.append(_request(columns, path.parent, common))
            except GenerateError as error:
                raise GenerateError(f"{path}, line {line}: {error}") from error
    except csv.Error as error:
        raise GenerateError(f"{path} cannot be read as CSV ({error})") from error
    if not requests:
        raise GenerateError(f"--prompts {path} holds no prompt")
    return requests


def _request(columns: dict[str, Any], folder: Path, common: GenerateRequest) -> GenerateRequest:
    if unknown := sorted(map(str, columns.keys() - set(COLUMNS))):
        raise GenerateError(f"column {unknown[0]!r} is none of {', '.join(COLUMNS)}")
    # An empty cell of a CSV file, and null in JSON, say nothing.
    known = {name: value for name, value in columns.items() if value not in (None, "")}
    changes: dict[str, Any] = {}
    if "seed" in known:
        changes["seed"] = _seed(known.pop("seed"))
    if wrong := [name for name, value in known.items() if not isinstance(value, str)]:
        raise GenerateError(f"{wrong[0]} is {known[wrong[0]]!r}, expected text")
    if "task" in known and known["task"] not in get_args(GenerateTask):
        raise GenerateError(
            f"task {known['task']!r} is none of {', '.join(get_args(GenerateTask))}"
        )
    changes |= {name: folder / known.pop(name) for name in ("image", "video") if name in known}
    if "class" in known:
        changes["class_name"] = known.pop("class")
    return replace(common, **changes, **known)


def _seed(found: Any) -> int:
    try:
        if isinstance(found, str):
            return int(found)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    except ValueError:
        pass
    raise GenerateError(f"seed is {found!r}, expected a whole number")


def _text_lines(text: str) -> _Lines:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _csv_lines(text: str) -> _Lines:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    for columns in reader:
        if None in columns or None in columns.values():
            header = len(reader.fieldnames or ())
            raise GenerateError(
                f"line {reader.line_num} of the prompts has not as many columns as the header, {header}"
            )
        yield reader.line_num, columns


def _json_lines(text: str) -> _Lines:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            columns = json.loads(line)
        except ValueError as error:
            raise GenerateError(f"line {number} of the prompts is not JSON ({error})") from error
        if not isinstance(columns, dict):
            raise GenerateError(
                f"line {number} of the prompts is {line.strip()!r}, expected {{...}}"
            )
        yield number, columns


_READERS: dict[str, Callable[[str], _Lines]] = {
    ".txt": _text_lines,
    ".csv": _csv_lines,
    ".jsonl": _json_lines,
}
