"""The configuration of the data engine: one frozen model per step.

Values are plain, so that the resolved configuration can be printed and stored with every output.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from data_engine.caption_config import CaptionConfig, HallucinationConfig


class _Config(BaseModel):
    # The docstrings of the fields are their descriptions in the launchpad of Dagster.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class ProbeConfig(_Config):
    """Limits on what is accepted as a source video."""

    max_size_bytes: int = Field(default=64 * 2**30, gt=0)
    """Larger files are quarantined."""
    max_duration_s: float = Field(default=6 * 3600.0, gt=0)
    """Longer videos are quarantined."""
    max_pixels: int = Field(default=7680 * 4320, gt=0)
    """Larger frames are quarantined."""
    max_probe_s: float = Field(default=60.0, gt=0)
    """A source whose container takes longer to read is quarantined; hashing its bytes does not count."""


class ShotConfig(_Config):
    """Shot boundaries, and how shots become clips."""

    detector: Literal["adaptive", "content", "transnetv2", "none"] = "adaptive"
    """What proposes cuts: PySceneDetect's `adaptive` or `content`, the network `transnetv2` (an extra), or nothing:
    with `none` clips are cut every `stride_s`, whatever they show."""
    adaptive_threshold: float = Field(default=3.0, gt=0)
    """Ratio of a frame's change to that of its neighbours which makes a cut (`adaptive`)."""
    content_threshold: float = Field(default=27.0, gt=0)
    """Mean HSV change, 0 to 255, which makes a cut (`content`)."""
    transnetv2_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability above which a frame is part of a transition (`transnetv2`)."""
    fade_luma: float = Field(default=12.0, ge=0, le=255)
    """Blank frames whose mean is below this are part of a fade to black; 0 turns these fades off."""
    white_luma: float = Field(default=240.0, ge=0, le=255)
    """Blank frames whose mean is above this are part of a fade to white; 255 turns these fades off."""
    find_dissolves: bool = True
    """Whether frames that blend two shots are looked for (`adaptive` and `content`)."""
    min_shot_s: float = Field(default=0.4, gt=0)
    """A shorter run of frames between two transitions is part of them, and of no clip."""
    trim_start_s: float = Field(default=0.0, ge=0)
    """Seconds that are left out at the start of every shot."""
    trim_end_s: float = Field(default=0.0, ge=0)
    """Seconds that are left out at the end of every shot."""
    max_clip_s: float = Field(default=10.0, gt=0)
    """Longer shots are split into equal clips no longer than this."""
    stride_s: float | None = Field(default=None, gt=0)
    """Length of every clip but the last when `detector` is `none`: for talking heads and other single shots."""
    stitch_similarity: float | None = Field(default=None, gt=0, le=1)
    """Shots on both sides of a hard cut are one shot if the embeddings (`scores.embedding`) of the last kept frame before
    it and the first after it have at least this cosine, and both together are no longer than `max_clip_s`; None
    stitches nothing (Panda-70M, 3.1)."""

    @model_validator(mode="after")
    def _check_stride(self) -> "ShotConfig":
        if (self.stride_s is None) == (self.detector == "none"):
            raise ValueError(
                f"stride_s is {self.stride_s} and detector is {self.detector!r}; set stride_s if detector is "
                "'none', and only then"
            )
        if self.stitch_similarity is not None and self.detector == "none":
            raise ValueError(
                f"stitch_similarity is {self.stitch_similarity}, but detector 'none' finds no cut to stitch; set it to null, "
                "or choose a detector"
            )
        if self.stride_s is not None and self.stride_s > self.max_clip_s:
            raise ValueError(
                f"stride_s is {self.stride_s}, above max_clip_s, which is {self.max_clip_s}"
            )
        return self


class DecodeConfig(_Config):
    """The single decode pass of each source."""

    analysis_long_side_px: int = Field(default=256, ge=64)
    """Size at which shots and motion are measured."""
    frame_long_side_px: int = Field(default=640, ge=64)
    """Size of the frames that are kept for the later scorers and the pictures."""
    frames_per_s: float = Field(default=2.0, gt=0)
    """How often motion is measured, and a frame is looked at closely."""
    frames_per_clip: int = Field(default=3, ge=2)
    """Of these, so many of each clip are kept for the later scorers, captioners and judges: the first, the last, and those
    spread between them. A shorter clip has fewer."""
    max_stall_s: float = Field(default=300.0, gt=0)
    """A worker whose decoder makes no progress for this long ends itself; its row is tried once more."""
    part_s: float | None = Field(default=600.0, ge=1)
    """A longer source is decoded in parts of this length by several workers at once; None never divides one. Frames
    around each edge are decoded twice. What comes out is the same."""

    def measures(self) -> dict[str, object]:
        """What decides the numbers, and not only where and how they are made."""
        return self.model_dump(mode="json", exclude={"max_stall_s", "part_s"})


class LabelConfig(_Config):
    """An image classifier that transformers runs, and the label whose probability is the score."""

    model: str | None = None
    """A folder with weights, or a repository of the hub; None names none. Only safetensors are read."""
    revision: str | None = None
    """Commit, branch or tag of the repository; None is the newest, which may change. A commit names its scores best."""
    label: str | None = None
    """As the configuration of the model (`id2label`) spells it."""


LabelScorerName = Literal["nsfw", "watermark", "iqa"]


class ScoreConfig(_Config):
    """Scores that need more than the decode pass; computed for clips that passed the cheap filters."""

    frame_scorers: tuple[
        Literal["quality", "text", "embedding", "aesthetic"] | LabelScorerName, ...
    ] = ("quality", "text", "embedding")
    """Scorers of kept frames. `aesthetic` needs open_clip weights and a head; `nsfw`, `watermark` and `iqa` need
    a model and a label each, for which there is no default."""
    embedding: Literal["lite0", "open_clip"] = "lite0"
    """Frame features for consistency and duplicates. `lite0` is embedded (ImageNet)."""
    similarity: Literal["conse", "open_clip"] = "conse"
    """Image-text backend. `conse` is embedded and is not CLIP; `open_clip` needs its weights."""
    open_clip_model: str = "ViT-L-14"
    open_clip_pretrained: str = "datacomp_xl_s13b_b90k"
    """A tag that open_clip knows, or the path of a checkpoint."""
    aesthetic_head: str = ""
    """A safetensors file with `weight` and `bias` of a linear head over the open_clip embedding (LAION)."""
    nsfw: LabelConfig = LabelConfig()
    """Score `nsfw`: the largest probability over the frames."""
    watermark: LabelConfig = LabelConfig()
    """Score `watermark`: the largest probability over the frames."""
    iqa: LabelConfig = LabelConfig()
    """Score `learned_quality`: the mean probability over the frames, of a label that says that a picture is good."""

    @property
    def label_scorers(self) -> dict[LabelScorerName, LabelConfig]:
        """The classifiers that this configuration makes use of."""
        known: dict[LabelScorerName, LabelConfig] = {
            "nsfw": self.nsfw,
            "watermark": self.watermark,
            "iqa": self.iqa,
        }
        return {name: chosen for name, chosen in known.items() if name in self.frame_scorers}

    @model_validator(mode="after")
    def _check_label_scorers(self) -> "ScoreConfig":
        for name, chosen in self.label_scorers.items():
            for field, value in (("model", chosen.model), ("label", chosen.label)):
                if not value:
                    raise ValueError(
                        f"frame_scorers names {name!r}, which has no {field}; set scores.{name}.{field}, or leave "
                        f"{name!r} out"
                    )
        return self


def _check_limit(limit: float | str) -> float | str:
    if isinstance(limit, str) and not re.fullmatch(r"p(\d{1,2}(\.\d+)?|100)", limit):
        raise ValueError("expected a number, a percentile such as p20, or null")
    return limit


Limit = Annotated[float | str, AfterValidator(_check_limit)]
"""A number, or a percentile of the score over the data set, such as `p20`."""


class FilterConfig(_Config):
    """Thresholds, in the order in which they are applied. None turns one off."""

    min_duration_s: Limit | None = 1.0
    min_height_px: Limit | None = 128.0
    """Of the picture inside letterbox bars, as is the aspect."""
    min_aspect: Limit | None = None
    """Width over height: below 1 is portrait."""
    max_aspect: Limit | None = None
    min_motion: Limit | None = 0.003
    """Median optical flow in frame diagonals a second; below is a still picture."""
    max_motion: Limit | None = 1.0
    min_foreground_motion: Limit | None = None
    """Motion that is not the camera's, in frame diagonals a second; below is a pan over things that stand still."""
    max_camera_motion: Limit | None = None
    """Shift, zoom and roll of the whole frame, in frame diagonals a second."""
    min_luminance: Limit | None = 0.06
    """Mean luma, 0 to 1."""
    max_luminance: Limit | None = 0.94
    max_black_share: Limit | None = None
    """Share of the kept times (`decode.frames_per_s`) whose frame is black, 0 to 1."""
    min_sharpness: Limit | None = 8.0
    """Variance of the Laplacian of luma (0 to 255) at `decode.frame_long_side_px`."""
    max_flicker: Limit | None = None
    """Mean distance of a frame's mean luma from that of its two neighbours, 0 to 1."""
    max_brisque: Limit | None = 75.0
    """BRISQUE, about 0 (pristine) to 100 (bad)."""
    min_technical_quality: Limit | None = None
    """0 to 1, embedded; not an aesthetic score."""
    min_aesthetic: Limit | None = None
    """LAION aesthetic head over open_clip, about 1 to 10."""
    min_learned_quality: Limit | None = None
    """Probability of the label that `scores.iqa` names, 0 to 1."""
    max_text_area: Limit | None = 0.02
    """Share of the frame that is covered by read text."""
    max_watermark: Limit | None = None
    """Probability of the label that `scores.watermark` names, 0 to 1."""
    max_nsfw: Limit | None = None
    """Probability of the label that `scores.nsfw` names, 0 to 1."""
    min_consistency: Limit | None = None
    """Least cosine between the features of the first, middle and last frame; a missed cut makes it small."""
    min_conse_similarity: Limit | None = None
    """Caption against frames, cosine of the embedded ConSE backend."""
    min_clip_similarity: Limit | None = None
    """Caption against frames, cosine of an open_clip model."""
    max_dsg_video_i: Limit | None = None
    """Share of the objects of the caption that no frame shows; a caption without a judged object is not scored."""


class DuplicateConfig(_Config):
    """Near-duplicates among the clips that the filters kept."""

    max_similarity: float | None = Field(default=0.985, gt=0, le=1)
    """Cosine of mean frame features above which two clips are copies; None keeps all."""
    within_source: bool = False
    """Compare clips of one source too. The parts of a long shot look alike, so that only one of them is left."""


class ShardConfig(_Config):
    """How survivors are encoded and packed."""

    short_side_px: int = Field(default=256, ge=32)
    """Clips are scaled down to this short side; smaller ones keep their size."""
    crf: int = Field(default=18, ge=0, le=51)
    """x264 constant rate factor: lower is better and larger."""
    copy_streams: bool = True
    """Copy the packets of a clip where no scaling, cropping or cut between key frames asks for encoding: exact, and
    some fifty times faster. Its rate and key frames are then those of the source."""
    duration_edges_s: tuple[float, ...] = (2.0, 5.0, 10.0)
    """Clips are bucketed by length between these."""
    max_clips: int = Field(default=1024, ge=1)
    """Clips in one shard."""
    max_bytes: int = Field(default=256 * 2**20, ge=2**16)
    """Size of one shard; the last one of a bucket is smaller, and a larger single clip has its own."""
    keep_encoded: bool = True
    """Keep the encoded clips beside the shards, so that another choice of clips encodes nothing twice."""

    @field_validator("duration_edges_s")
    @classmethod
    def _check_edges(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if not edges or list(edges) != sorted({e for e in edges if e > 0}):
            raise ValueError("expected one or more increasing positive numbers of seconds")
        return edges


class WorkerConfig(_Config):
    """What the processes ask of the cluster. It changes where work is done and never what comes out."""

    num_gpus: float = Field(default=0.0, ge=0, le=1)
    """The share of a GPU for each process that scores frames or writes captions, which are then as many as fit. Worth
    it for models of the hub; those that are embedded are small. 0 takes CPUs."""


class DataEngineConfig(_Config):
    """A whole curation run."""

    probe: ProbeConfig = ProbeConfig()
    decode: DecodeConfig = DecodeConfig()
    shots: ShotConfig = ShotConfig()
    scores: ScoreConfig = ScoreConfig()
    filters: FilterConfig = FilterConfig()
    subsets: dict[str, FilterConfig] = {}
    """Stricter sets for later stages of training, by name: each kept clip lists those that it passes."""
    duplicates: DuplicateConfig = DuplicateConfig()
    captions: CaptionConfig = CaptionConfig()
    hallucination: HallucinationConfig = HallucinationConfig()
    shards: ShardConfig = ShardConfig()
    workers: WorkerConfig = WorkerConfig()
