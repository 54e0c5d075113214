"""The configuration of the data engine: one frozen model per step.

Values are plain, so that the resolved configuration can be printed and stored with every output.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeConfig(_Config):
    """Limits on what is accepted as a source video."""

    max_size_bytes: int = Field(default=64 * 2**30, gt=0)
    """Larger files are quarantined."""
    max_duration_s: float = Field(default=6 * 3600.0, gt=0)
    """Longer videos are quarantined."""
    max_pixels: int = Field(default=7680 * 4320, gt=0)
    """Larger frames are quarantined."""


class ShotConfig(_Config):
    """Shot boundaries (PySceneDetect) and how shots become clips."""

    detector: Literal["adaptive", "content"] = "adaptive"
    """Which detector finds hard cuts."""
    adaptive_threshold: float = Field(default=3.0, gt=0)
    """Ratio of a frame's change to that of its neighbours which makes a cut (`adaptive`)."""
    content_threshold: float = Field(default=27.0, gt=0)
    """Mean HSV change, 0 to 255, which makes a cut (`content`)."""
    fade_luma: float = Field(default=12.0, ge=0, le=255)
    """A frame whose mean luma is below this is part of a fade to black; 0 turns fades off."""
    min_shot_s: float = Field(default=0.4, gt=0)
    """Cuts closer together than this are taken as one."""
    min_clip_s: float = Field(default=1.0, gt=0)
    """Shorter clips are recorded as rejected."""
    max_clip_s: float = Field(default=10.0, gt=0)
    """Longer shots are split into equal clips no longer than this."""

    @model_validator(mode="after")
    def _check_order(self) -> "ShotConfig":
        if self.min_clip_s > self.max_clip_s:
            raise ValueError(
                f"min_clip_s is {self.min_clip_s}, above max_clip_s, which is {self.max_clip_s}"
            )
        return self


class DecodeConfig(_Config):
    """The single decode pass of each source."""

    analysis_long_side_px: int = Field(default=256, ge=64)
    """Size at which shots and motion are measured."""
    frame_long_side_px: int = Field(default=640, ge=64)
    """Size of the frames that are kept for the later scorers and the pictures."""
    frames_per_s: float = Field(default=2.0, gt=0)
    """How often a frame is kept and motion is measured."""


class ScoreConfig(_Config):
    """Scores that need more than the decode pass; computed for clips that passed the cheap filters."""

    similarity: Literal["conse", "open_clip"] = "conse"
    """Image-text backend. `conse` is embedded and is not CLIP; `open_clip` needs its weights."""
    open_clip_model: str = "ViT-L-14"
    open_clip_pretrained: str = "datacomp_xl_s13b_b90k"
    """A tag that open_clip knows, or the path of a checkpoint."""


class FilterConfig(_Config):
    """Thresholds, in the order in which they are applied. None turns one off."""

    min_height_px: int | None = 128
    min_motion: float | None = 0.003
    """Median optical flow in frame diagonals a second; below is a still picture."""
    max_motion: float | None = 1.0
    min_luminance: float | None = 0.06
    """Mean luma, 0 to 1."""
    max_luminance: float | None = 0.94
    min_sharpness: float | None = 8.0
    """Variance of the Laplacian of luma (0 to 255) at `decode.frame_long_side_px`."""
    max_brisque: float | None = 75.0
    """BRISQUE, about 0 (pristine) to 100 (bad)."""
    max_text_area: float | None = 0.02
    """Share of the frame that is covered by read text."""
    min_conse_similarity: float | None = None
    """Caption against frames, cosine of the embedded ConSE backend."""
    min_clip_similarity: float | None = None
    """Caption against frames, cosine of an open_clip model."""


class CaptionConfig(_Config):
    captioner: Literal["template"] = "template"
    """Which captioner writes the captions."""


class ShardConfig(_Config):
    """How survivors are encoded and packed."""

    short_side_px: int = Field(default=256, ge=32)
    """Clips are scaled down to this short side; smaller ones keep their size."""
    crf: int = Field(default=18, ge=0, le=51)
    """x264 constant rate factor: lower is better and larger."""
    max_clips: int = Field(default=64, ge=1)
    """Clips in one shard."""
    max_duration_s: float = Field(default=600.0, gt=0)
    """Seconds of video in one shard."""


class DataEngineConfig(_Config):
    """A whole curation run."""

    probe: ProbeConfig = ProbeConfig()
    decode: DecodeConfig = DecodeConfig()
    shots: ShotConfig = ShotConfig()
    scores: ScoreConfig = ScoreConfig()
    filters: FilterConfig = FilterConfig()
    captions: CaptionConfig = CaptionConfig()
    shards: ShardConfig = ShardConfig()
