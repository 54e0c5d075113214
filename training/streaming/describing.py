"""One shard to rows of the index: what is in it, from its index or its headers, and from the small members."""

import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import av
import pyarrow as pa
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError

from data_engine.schema import (
    CAPTION_MEMBER,
    RECORD_MEMBER,
    VIDEO_MEMBER,
    ClipRecord,
    ShardMember,
)
from training.errors import DataError
from training.latents import LATENTS_MEMBER, TEXT_MEMBER, LatentRecord
from training.streaming.decode import MEDIA_OPTIONS
from training.streaming.rows import SCHEMA
from training.streaming.shards import Shard
from training.streaming.storage import RangeReader, open_shard
from training.streaming.tars import MAX_MEMBER_BYTES, list_samples

logger = logging.getLogger(__name__)

Members = Mapping[str, ShardMember]
_VIDEOS = (VIDEO_MEMBER, "webm", "mkv", "avi", "mov", "m4v")
_IMAGES = ("jpg", "jpeg", "png", "webp")
_MAX_TEXT_BYTES = 2**20
_NO_LATENTS: Mapping[str, Any] = {
    "channels": 0,
    "latent_height": 0,
    "latent_width": 0,
    "text_width": 0,
    "pooled_text_width": 0,
    "text_places": [],
}
_UNNAMED_SOURCE = "original"
"""Of captions that lie beside a video or an image and say no more."""


def describe_shard(shard: Shard) -> pa.Table:
    """A row for each sample that holds a video, an image or latents, in the order of the tar.

    Raises:
        DataError: the shard is broken, or holds what must not be in a data set.
    """
    if shard.entry is not None:
        samples = {sample.clip_id: sample.members for sample in shard.entry.samples}
    else:
        with open_shard(shard.location) as file:
            samples = list_samples(file, shard.location)
    reader = RangeReader()
    try:
        rows = [_row(shard, reader, key, members) for key, members in samples.items()]
    finally:
        reader.close()
    found = [{**row, "has_caption": bool(row["captions"])} for row in rows if row is not None]
    if len(found) < len(rows):
        logger.warning(
            "%s: %d of %d samples hold neither a video, an image nor latents and are left out",
            *(shard.location, len(rows) - len(found), len(rows)),
        )
    return pa.Table.from_pylist(found, schema=SCHEMA)


def _row(shard: Shard, reader: RangeReader, key: str, members: Members) -> dict[str, Any] | None:
    def read(name: str, limit: int = _MAX_TEXT_BYTES) -> bytes:
        member = members[name]
        if member.size_bytes > limit:
            raise DataError(
                f"sample {key} of {shard.location}: {name} has {member.size_bytes} bytes, at most "
                f"{limit} are read; build it again"
            )
        return reader.read(shard.location, member.offset, member.size_bytes)

    try:
        if LATENTS_MEMBER in members:
            return _latents_row(key, members, read)
        if shard.kind == "clips":
            return _clip_row(key, members, read)
        return _foreign_row(key, members, read)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError) and shard.location in str(error):
            raise
        raise DataError(
            f"sample {key} of {shard.location} is not readable: {error}; build the data set again"
        ) from error


def _latents_row(key: str, members: Members, read: Callable[[str], bytes]) -> dict[str, Any]:
    record = LatentRecord.from_json(read(RECORD_MEMBER))
    latents, text = members[LATENTS_MEMBER], members[TEXT_MEMBER]
    if record.payload_offset + record.num_frames * record.frame_bytes != latents.size_bytes:
        raise DataError(f"its latents are not of the shape {record.shape_FCHW}")
    record.check_texts(text.size_bytes)
    _, channels, height, width = record.shape_FCHW
    return {
        "key": key,
        "media": "latents",
        "offset": latents.offset + record.payload_offset,
        "size_bytes": latents.size_bytes - record.payload_offset,
        "captions": [caption.text for caption in record.captions],
        "caption_sources": [caption.source for caption in record.captions],
        "num_frames": record.num_frames,
        "fps": record.fps,
        "height_px": record.original_height_px,
        "width_px": record.original_width_px,
        "subsets": list(record.subsets),
        "channels": channels,
        "latent_height": height,
        "latent_width": width,
        "text_width": record.text_width,
        "pooled_text_width": record.pooled_text_width,
        "text_places": [
            number
            for c in record.captions
            for number in (
                text.offset + c.tokens_offset,
                c.num_tokens,
                text.offset + c.pooled_offset,
            )
        ],
    }


def _clip_row(key: str, members: Members, read: Callable[[str], bytes]) -> dict[str, Any]:
    if missing := {VIDEO_MEMBER, RECORD_MEMBER} - members.keys():
        raise DataError(f"clip {key} lacks {sorted(missing)}; build it again")
    record = ClipRecord.from_json(read(RECORD_MEMBER))
    captions = [(c.text, c.source) for c in record.captions if c.text]
    if not captions and CAPTION_MEMBER in members:
        captions = _unnamed(read(CAPTION_MEMBER).decode(errors="replace"))
    facts = {
        **_captions(captions),
        "num_frames": record.num_frames,
        "fps": record.fps,
        "height_px": record.height_px,
        "width_px": record.width_px,
        "subsets": list(record.subsets),
    }
    return {**_media(key, "video", members[VIDEO_MEMBER]), **facts}


def _foreign_row(
    key: str, members: Members, read: Callable[[str, int], bytes]
) -> dict[str, Any] | None:
    """Of a tar that another tool wrote, such as img2dataset: captions in `txt` or `json`, sizes in `json`."""
    facts: dict[str, Any] = {}
    if RECORD_MEMBER in members:
        found = json.loads(read(RECORD_MEMBER, _MAX_TEXT_BYTES))
        facts = found if isinstance(found, dict) else {}
    if VIDEO_MEMBER in members and "clip_id" in facts and "schema_version" in facts:
        return _clip_row(key, members, lambda name: read(name, _MAX_TEXT_BYTES))
    caption = facts.get("caption")
    if CAPTION_MEMBER in members:
        caption = read(CAPTION_MEMBER, _MAX_TEXT_BYTES).decode(errors="replace")
    texts = {**_captions(_unnamed(str(caption or ""))), "subsets": []}
    if video := _first(_VIDEOS, members):
        probed = _probe_video(read(video, MAX_MEMBER_BYTES))
        return {**_media(key, "video", members[video]), **texts, **probed}
    if image := _first(_IMAGES, members):
        height_px, width_px = _image_size(facts) or _probe_image(read(image, MAX_MEMBER_BYTES))
        sizes = {"num_frames": 1, "fps": 1.0, "height_px": height_px, "width_px": width_px}
        return {**_media(key, "image", members[image]), **texts, **sizes}
    return None


def _unnamed(text: str) -> list[tuple[str, str]]:
    return [(text.strip(), _UNNAMED_SOURCE)] if text.strip() else []


def _captions(captions: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The columns of texts and their sources."""
    return {
        "captions": [text for text, _ in captions],
        "caption_sources": [source for _, source in captions],
    }


def _first(names: Iterable[str], members: Members) -> str | None:
    return next((name for name in names if name in members), None)


def _media(key: str, media: str, member: ShardMember) -> dict[str, Any]:
    place = {"offset": member.offset, "size_bytes": member.size_bytes}
    return {"key": key, "media": media, **place, **_NO_LATENTS}


def _image_size(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width before anything was resized."""
    for prefix in ("original_", ""):
        height, width = facts.get(f"{prefix}height"), facts.get(f"{prefix}width")
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return height, width
    return None


def _probe_image(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise DataError(f"its image is damaged ({error})") from error


def _probe_video(data: bytes) -> dict[str, Any]:
    try:
        with av.open(io.BytesIO(data), mode="r", options=MEDIA_OPTIONS) as container:
            if not container.streams.video:
                raise DataError("its video holds no video stream")
            stream = container.streams.video[0]
            context = stream.codec_context
            # Matroska does not say how many frames there are; packets are counted without decoding them.
            num_frames = stream.frames or sum(1 for p in container.demux(stream) if p.size)
            return {
                "num_frames": num_frames,
                "fps": float(stream.average_rate or 25),
                "height_px": context.height,
                "width_px": context.width,
            }
    except FFmpegError as error:
        raise DataError(f"its video is damaged ({error})") from error
