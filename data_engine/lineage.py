"""Where a clip comes from and where it went: from a tar back to a second of a source file."""

from dataclasses import dataclass

from data_engine.errors import TableError
from data_engine.schema import MANIFEST_NAME, ClipRecord, ShardManifest, ShardMember, SourceVideo
from data_engine.tables import DatasetPaths, load_clips, read_sources


@dataclass(frozen=True, slots=True)
class Lineage:
    """One clip, the source that it was cut from, and its place in the shards, if it was kept."""

    clip: ClipRecord
    source: SourceVideo
    shard: str | None
    """Name of the tar below `shards/`; None for a clip that was not kept."""
    members: dict[str, ShardMember]
    """By extension; empty where there is no tar."""


def lineage(paths: DatasetPaths, clip_id: str) -> Lineage:
    """What is known of the clip whose id begins with `clip_id`.

    Raises:
        TableError: no clip of the data set has it, or several do.
    """
    found = [clip for clip in load_clips(paths) if clip.clip_id.startswith(clip_id)]
    if len(found) != 1:
        several = f"{len(found)} clips" if found else "no clip"
        raise TableError(
            f"{paths.root} has {several} whose id begins with {clip_id!r}; ids are the names of the members in "
            "the shards, without their extensions"
        )
    (clip,) = found
    sources = {source.source_id: source for source in read_sources(paths.sources)}
    manifest = paths.shards / MANIFEST_NAME
    entries = ShardManifest.from_json(manifest.read_bytes()).shards if manifest.exists() else ()
    places = [(e.name, s.members) for e in entries for s in e.samples if s.clip_id == clip.clip_id]
    shard, members = places[0] if places else (None, {})
    return Lineage(clip, sources[clip.source_id], shard, members)
