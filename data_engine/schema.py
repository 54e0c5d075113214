"""The contract between the data engine and whoever reads its tables and shards.

Standard library only: training, notebooks and other tools may import this module without
paying for Ray, torch or OpenCV.

A clip is a row. It is in exactly one of three states, and the counts add up::

    kept      passed every filter so far
    rejected  a filter turned it down; `rejected_by` names the filter
    failed    a step could not process it; `error` says why
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

SCHEMA_VERSION = 3

VIDEO_MEMBER = "mp4"
"""Extension of the encoded clip inside a shard."""
RECORD_MEMBER = "json"
"""Extension of the `ClipRecord` inside a shard."""
CAPTION_MEMBER = "txt"
"""Extension of the first caption inside a shard: what plain WebDataset readers expect."""

MANIFEST_NAME = "manifest.json"

_ORIENTATION, _NUM_CLIPS = "orientation", "num_clips"
# Letterbox bars are found to a pixel or two; sides that differ by less than this are called equal.
_SQUARE_TOLERANCE = 0.05


class SchemaError(ValueError):
    """A record was written by another version of the schema, or lacks a field."""


class Rejection(StrEnum):
    """Why a filter dropped a clip. One clip has at most one reason: the first that applied."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    WRONG_SHAPE = "wrong_shape"
    WRONG_RATE = "wrong_rate"
    WRONG_DYNAMIC_RANGE = "wrong_dynamic_range"
    TOO_STATIC = "too_static"
    TOO_SHAKY = "too_shaky"
    WRONG_CAMERA = "wrong_camera"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    TOO_BLURRY = "too_blurry"
    TOO_NOISY = "too_noisy"
    LOW_QUALITY = "low_quality"
    TOO_MUCH_TEXT = "too_much_text"
    TOO_LITTLE_TEXT = "too_little_text"
    TEXT_AT_EDGES = "text_at_edges"
    TEXT_IN_CORNERS = "text_in_corners"
    WATERMARKED = "watermarked"
    INCONSISTENT = "inconsistent"
    UNSAFE = "unsafe"
    DUPLICATE = "duplicate"
    CAPTION_MISMATCH = "caption_mismatch"
    HALLUCINATED = "hallucinated"
    WRONG_CATEGORY = "wrong_category"
    OUT_OF_RANGE = "out_of_range"
    """On the side of a limit that seldom speaks against a clip, such as a minimum of `nsfw`."""
    NOT_SCORED = "not_scored"


class Orientation(StrEnum):
    LANDSCAPE = "landscape"
    PORTRAIT = "portrait"
    SQUARE = "square"


class ClipStatus(StrEnum):
    KEPT = "kept"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A number and the backend that made it; numbers of two backends are not comparable."""

    value: float
    backend: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """One description of a clip. Several may coexist."""

    text: str
    source: str
    """`template`, `vlm`, `endpoint`, `frames_then_merge`, or `original` for text that came with the source."""
    model: str
    prompt: str | None = None
    """What the model was asked; None where there is no prompt."""
    num_tokens: int | None = None
    """Tokens of the text as the model counts them; None where nobody counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A rectangle inside the display frame of a source, in its pixels."""

    left_px: int
    top_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """What kind of thing a clip shows, and the backend that says so."""

    name: str
    backend: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecord:
    """What is known of one clip, and no more.

    `start_s` and `end_s` are half-open on the timeline of the source (presentation time). `height_px` and
    `width_px` are the display size of the source, after rotation and pixel aspect ratio; `crop` is the picture
    inside its letterbox bars, None where there are none. `source_uri` says the same on every machine.
    """

    clip_id: str
    source_id: str
    source_uri: str
    start_s: float
    end_s: float
    fps: float
    num_frames: int
    shot_index: int
    """Clips of one source with the same index are parts of one shot."""
    height_px: int
    width_px: int
    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    captions: tuple[Caption, ...] = ()
    crop: Crop | None = None
    category: Category | None = None
    subsets: tuple[str, ...] = ()
    """Named filter sets (`DataEngineConfig.subsets`) that the clip passes."""
    duplicate_of: str | None = None
    """The clip that was kept of its group of near-duplicates, if it is not this one; after the name of its data set and a
    slash, if that is another one."""
    rejected_by: Rejection | None = None
    error: str | None = None
    attribution: str | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    """What a manifest says of the source, as text."""
    schema_version: int = SCHEMA_VERSION

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def picture_size_px(self) -> tuple[int, int]:
        """Height and width of what is shown and encoded: the crop if there is one, else the whole frame."""
        if self.crop is not None:
            return self.crop.height_px, self.crop.width_px
        return self.height_px, self.width_px

    @property
    def orientation(self) -> Orientation:
        """Of the picture inside letterbox bars; square if the longer side is at most a twentieth longer."""
        height_px, width_px = self.picture_size_px
        if max(height_px, width_px) <= (1 + _SQUARE_TOLERANCE) * min(height_px, width_px):
            return Orientation.SQUARE
        return Orientation.LANDSCAPE if width_px > height_px else Orientation.PORTRAIT

    @property
    def status(self) -> ClipStatus:
        if self.error is not None:
            return ClipStatus.FAILED
        return ClipStatus.KEPT if self.rejected_by is None else ClipStatus.REJECTED

    @property
    def main_text(self) -> str:
        """The text of the first caption; empty for a clip that has none."""
        return self.captions[0].text if self.captions else ""

    def score(self, name: str) -> float | None:
        """The value of a score, or None where it was not measured."""
        found = self.scores.get(name)
        return None if found is None else found.value

    def with_scores(self, scores: dict[str, Score]) -> Self:
        return replace(self, scores={**self.scores, **scores})

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the orientation, which follows from them: for readers who would have to work it out."""
        return {**asdict(self), _ORIENTATION: self.orientation}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build a record from plain values.

        Raises:
            SchemaError: the version is not ours, or a field is missing or unknown.
        """
        _check_fields(cls, data, "clip record", _ORIENTATION)
        rejected_by = data["rejected_by"]
        values: dict[str, Any] = {
            **{name: value for name, value in data.items() if name != _ORIENTATION},
            "scores": {name: Score(**score) for name, score in data["scores"].items()},
            "captions": tuple(Caption(**caption) for caption in data["captions"]),
            "crop": None if data["crop"] is None else Crop(**data["crop"]),
            "category": None if data["category"] is None else Category(**data["category"]),
            "subsets": tuple(data["subsets"]),
            "rejected_by": None if rejected_by is None else Rejection(rejected_by),
        }
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls.from_dict(json.loads(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceVideo:
    """A readable source video. `source_id` is a hash of its bytes, so a renamed file is the same source.

    `height_px` and `width_px` are the display size, after rotation and pixel aspect ratio.
    """

    source_id: str
    uri: str
    """Its name below `--source`, the same on every machine; it is what shards and reports show."""
    location: str
    """What to open: a path, an fsspec URL, or a member of a tar."""
    other_uris: tuple[str, ...] = ()
    """Further names under which the same bytes were found."""
    size_bytes: int
    codec: str
    height_px: int
    width_px: int
    sample_aspect_ratio: float = 1.0
    rotation_deg: int
    fps: float
    """Mean over the file."""
    is_variable_rate: bool = False
    colour_transfer: str | None = None
    """Such as `smpte2084` or `arib-std-b67` (HDR), as FFmpeg names it; None if the file does not say."""
    has_audio: bool = False
    duration_s: float
    attribution: str | None = None
    captions: tuple[str, ...] = ()
    """Texts that came with the source."""
    metadata: dict[str, str] = field(default_factory=dict[str, str])

    def original_captions(self) -> tuple[Caption, ...]:
        return tuple(Caption(text=t, source="original", model="source") for t in self.captions)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        values: dict[str, Any] = {
            **data,
            "other_uris": tuple(data["other_uris"]),
            "captions": tuple(data["captions"]),
        }
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls.from_dict(json.loads(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedSource:
    """A source that could not be read, and why."""

    uri: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardMember:
    """Where one file of one sample lies inside its shard: read it with a single `pread`."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSample:
    """One clip inside a shard. `members` is keyed by extension (`mp4`, `json`, `txt`)."""

    clip_id: str
    members: dict[str, ShardMember]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One tar of a data set, with the index of its members. `bucket` names what its clips have in common."""

    name: str
    bucket: str
    sha256: str
    size_bytes: int
    samples: tuple[ShardSample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardManifest:
    """What `shards/manifest.json` holds: every shard, its hash and the place of every member."""

    shards: tuple[ShardEntry, ...]
    config: dict[str, Any]
    schema_version: int = SCHEMA_VERSION

    @property
    def num_clips(self) -> int:
        return sum(len(shard.samples) for shard in self.shards)

    def to_json(self) -> str:
        """With the number of clips of each shard and of all, for readers who would have to count."""
        data = asdict(self)
        for shard in data["shards"]:
            shard[_NUM_CLIPS] = len(shard["samples"])
        return json.dumps({**data, _NUM_CLIPS: self.num_clips}, sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a manifest.

        Raises:
            SchemaError: the version is not ours, or a field is missing or unknown.
        """
        data = json.loads(text)
        _check_fields(cls, data, "shard manifest", _NUM_CLIPS)
        return cls(
            shards=tuple(shard_entry_from_dict(shard) for shard in data["shards"]),
            config=data["config"],
            schema_version=data["schema_version"],
        )


def shard_entry_from_dict(data: dict[str, Any]) -> ShardEntry:
    samples = tuple(
        ShardSample(
            clip_id=sample["clip_id"],
            members={ext: ShardMember(**place) for ext, place in sample["members"].items()},
        )
        for sample in data["samples"]
    )
    return ShardEntry(
        name=data["name"],
        bucket=data["bucket"],
        sha256=data["sha256"],
        size_bytes=data["size_bytes"],
        samples=samples,
    )


def clip_id(source_id: str, start_s: float, end_s: float) -> str:
    """A stable id of a span of a source: the same bytes and times give the same id anywhere.

    Holds no dot, because WebDataset splits member names at the first one.
    """
    span_us = f"{source_id}:{round(start_s * 1e6)}:{round(end_s * 1e6)}"
    return hashlib.sha256(span_us.encode()).hexdigest()[:20]


def _check_fields(cls: type[Any], data: dict[str, Any], what: str, derived: str) -> None:
    """`derived` names what is written beside the fields, because it follows from them."""
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise SchemaError(
            f"{what} has schema_version {version!r}, this code reads {SCHEMA_VERSION}; "
            "run the step that wrote it again, or check out the commit that wrote it"
        )
    expected = {derived, *(f.name for f in fields(cls))}
    if set(data) != expected:
        raise SchemaError(
            f"{what} has missing fields {sorted(expected - set(data))} "
            f"and unknown fields {sorted(set(data) - expected)}"
        )
