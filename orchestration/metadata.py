"""Metadata of a materialisation that stays small: Dagster loads that of every one that a page lists."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

MAX_METADATA_BYTES = 200_000
"""Of one materialisation, as Dagster stores it."""
_MAX_ROWS = 50
_MAX_CELL = 200
_ROOM_FOR_EVENT = 4_000
"""What Dagster stores beside the metadata, and the note on what was left out."""

Shown = Mapping[str, Any]
"""Metadata by name. `report` is no text yet: it maps the headings of a report to Markdown, what matters most first."""


def fitted(shown: Shown) -> dict[str, Any]:
    """The same with the report as one Markdown text, and no larger than `MAX_METADATA_BYTES`.

    What does not fit is left out, the last sections first, and the report says so.
    """
    others = {name: value for name, value in shown.items() if name != "report"}
    left_out: list[str] = []
    while (room := MAX_METADATA_BYTES - _ROOM_FOR_EVENT - stored_bytes(others)) < 0:
        largest = max(others, key=lambda name: stored_bytes({name: others[name]}))
        left_out.append(largest)
        del others[largest]
    sections: dict[str, str] = {}
    for name, text in shown.get("report", {}).items():
        size = _text_bytes(_section(name, text))
        if size <= room:
            sections[name] = text
            room -= size
        else:
            left_out.append(name)
    if left_out:
        names = ", ".join(left_out)[:1000]
        sections["Left out"] = f"Too large for this page: {names}. It is in the files of the asset."
    report = {"report": markdown(sections)} if sections else {}
    # Long tables last: the page shows all of them below each other.
    return report | dict(sorted(others.items(), key=lambda found: _is_table(found[1])))


def stored_bytes(metadata: Mapping[str, Any]) -> int:
    """How large metadata is in the storage of Dagster, with an event around it."""
    event = dg.AssetMaterialization("asset", metadata=dict(metadata))
    return len(dg.serialize_value(event).encode())


def picture(name: str, data: bytes) -> str:
    """Markdown of a PNG or JPEG that carries its own bytes."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"![{name}](data:image/{kind};base64,{base64.b64encode(data).decode()})"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of the first rows, and how many more there are."""
    lines = [columns, ["---"] * len(columns), *rows[:_MAX_ROWS]]
    cells = (" | ".join(map(_cell, line)) for line in lines)
    text = "\n".join(f"| {line} |" for line in cells)
    more = len(rows) - _MAX_ROWS
    return text + (f"\n\nand {more} more." if more > 0 else "")


def markdown(sections: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md("".join(_section(*found) for found in sections.items()).strip())


def _is_table(value: object) -> bool:
    return isinstance(value, dg.TableMetadataValue)


def _section(name: str, text: str) -> str:
    return f"## {name}\n\n{text}\n\n"


def _cell(value: object) -> str:
    text = " ".join(str(value).replace("|", "/").split())
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}..."


def _text_bytes(text: str) -> int:
    return len(json.dumps(text))
