"""Pages of all clips, so that each has an address: from its id to the second of its source and its place in the shards.

    report/clips/index.html     asks for an id, and lists the pages
    report/clips/a1.html#a1...  the clip of this id, among those whose ids begin with `a1`

They need no server: any that hands out the files of the data set will do, or none.
"""

from collections import defaultdict
from dataclasses import dataclass

import jinja2

from data_engine.schema import MANIFEST_NAME, ClipRecord, ShardManifest, ShardMember
from data_engine.tables import DatasetPaths, load_clips, write_text

INDEX_NAME = "index.html"
_PREFIX = 2
"""Characters of an id that name its page: 256 pages, of 4000 clips each where there are a million."""


@dataclass(frozen=True, slots=True)
class PlacedClip:
    """A clip, and its tar below `shards/` with its members by extension, if it was kept."""

    clip: ClipRecord
    shard: str | None
    members: dict[str, ShardMember]


def page_of(clip_id: str) -> str:
    """The address of a clip, relative to the folder of the pages."""
    return f"{clip_id[:_PREFIX]}.html#{clip_id}"


def write_clip_pages(paths: DatasetPaths) -> int:
    """Write `report/clips/` anew and give the number of clips in it: kept, rejected and failed ones.

    Raises:
        TableError: the data set was not curated.
    """
    clips = load_clips(paths)
    places = _places(paths)
    by_page: dict[str, list[PlacedClip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        shard, members = places.get(clip.clip_id, (None, {}))
        by_page[clip.clip_id[:_PREFIX]].append(PlacedClip(clip, shard, members))
    folder = paths.clip_pages
    for old in folder.glob("*.html"):
        if old.stem not in by_page:
            old.unlink()
    page = _template("clips.html")
    for prefix, placed in by_page.items():
        write_text(
            folder / f"{prefix}.html", page.render(prefix=prefix, placed=placed, page_of=page_of)
        )
    counts = {prefix: len(placed) for prefix, placed in by_page.items()}
    index = _template("clips_index.html").render(counts=counts, prefix_length=_PREFIX)
    write_text(folder / INDEX_NAME, index)
    return len(clips)


def _places(paths: DatasetPaths) -> dict[str, tuple[str, dict[str, ShardMember]]]:
    manifest = paths.shards / MANIFEST_NAME
    if not manifest.exists():
        return {}
    entries = ShardManifest.from_json(manifest.read_bytes()).shards
    return {s.clip_id: (entry.name, s.members) for entry in entries for s in entry.samples}


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("data_engine", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)
