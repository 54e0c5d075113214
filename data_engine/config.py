"""The configuration of the data engine: one frozen model per step.

Values are plain, so that the resolved configuration can be printed and stored with every output.
"""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from data_engine.caption_config import CaptionConfig, HallucinationConfig
from data_engine.filter_config import DSG_SCORES, FRAME_SCORER_OF, SIMILARITY_OF, FilterConfig


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
    """Of `embedding` and `similarity`."""
    open_clip_pretrained: str = "datacomp_xl_s13b_b90k"
    """A tag that open_clip knows, or the path of a checkpoint."""
    aesthetic_model: str = "ViT-L-14"
    """The open_clip model on whose embeddings the head was fitted; with another one of the same width the score would be
    a number without a meaning."""
    aesthetic_pretrained: str = "openai"
    """Its tag or checkpoint; those of the LAION heads are OpenAI's."""
    aesthetic_head: str = ""
    """A safetensors file with `weight` and `bias` of a linear head over the embedding of `aesthetic_model` (LAION)."""
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


class DuplicateConfig(_Config):
    """Near-duplicates among the clips that the filters kept."""

    max_similarity: float | None = Field(default=0.985, gt=0, le=1)
    """Cosine of mean frame features above which two clips are copies; None keeps all."""
    within_source: bool = False
    """Compare clips of one source too. The parts of a long shot look alike, so that only one of them is left."""
    also: tuple[str, ...] = ()
    """Other data sets whose clips are originals too, in order: paths, or names of folders beside this one. A data set that
    is in the list itself looks only at those before it, so that one list serves them all, and what is kept does not
    depend on which is curated first."""


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
    max_unanswered: int = Field(default=20, ge=1)
    """When so many pieces of work in a row got no answer from a bucket or a server, the job stops. Fewer leave their step
    unfinished, and the next run tries them anew."""


class DataEngineConfig(_Config):
    """A whole curation run."""

    probe: ProbeConfig = ProbeConfig()
    decode: DecodeConfig = DecodeConfig()
    shots: ShotConfig = ShotConfig()
    scores: ScoreConfig = ScoreConfig()
    filters: FilterConfig = FilterConfig()
    subsets: dict[str, FilterConfig] = {}
    """Stricter sets for later stages of training, by name: each kept clip lists those that it passes. Only the limits
    that are given count; all the others are those of `filters`, which every kept clip passed."""
    duplicates: DuplicateConfig = DuplicateConfig()
    captions: CaptionConfig = CaptionConfig()
    hallucination: HallucinationConfig = HallucinationConfig()
    shards: ShardConfig = ShardConfig()
    workers: WorkerConfig = WorkerConfig()

    @field_serializer("subsets")
    def _given_alone(
        self, subsets: dict[str, FilterConfig], info: FieldSerializationInfo
    ) -> dict[str, Any]:
        """What was left out stays left out when the configuration is stored, sent to a job or changed."""
        mode = "json" if info.mode == "json" else "python"
        return {n: s.model_dump(mode=mode, exclude_unset=True) for n, s in subsets.items()}

    @model_validator(mode="after")
    def _check_scores_of_limits(self) -> "DataEngineConfig":
        """A limit on what nobody measures would refuse every clip, hours later."""
        sets = {f"subsets.{name}": chosen.as_subset() for name, chosen in self.subsets.items()}
        for where, chosen in {"filters": self.filters, **sets}.items():
            for field in chosen.limits:
                score = field[len("min_") :]
                if (missing := self._missing_for(score)) is not None:
                    raise ValueError(
                        f"{where}.{field} needs the score {score!r}, which nothing computes; {missing}, or set "
                        f"{where}.{field} to null"
                    )
            unknown = set(chosen.chosen_categories) - set(self.captions.categories.names)
            if unknown:
                raise ValueError(
                    f"{where} names the categories {sorted(unknown)}, and captions.categories.names are "
                    f"{list(self.captions.categories.names)}; name some of those"
                )
        return self

    @model_validator(mode="after")
    def _check_duplicates(self) -> "DataEngineConfig":
        duplicates = self.duplicates
        is_compared = duplicates.max_similarity is not None
        if duplicates.also and not (is_compared and "embedding" in self.scores.frame_scorers):
            raise ValueError(
                "duplicates.also needs a number in duplicates.max_similarity and 'embedding' in scores.frame_scorers; set "
                "both, or leave it empty"
            )
        return self

    def _missing_for(self, score: str) -> str | None:
        """What to change so that a score is computed; None if it is."""
        scorer, similarity = FRAME_SCORER_OF.get(score), SIMILARITY_OF.get(score)
        if scorer is not None and scorer not in self.scores.frame_scorers:
            return f"add {scorer!r} to scores.frame_scorers"
        if similarity is not None and similarity != self.scores.similarity:
            return f"set scores.similarity to {similarity!r}"
        if score in DSG_SCORES and self.hallucination.backend is None:
            return "set hallucination.backend"
        return None

    @model_validator(mode="after")
    def _check_frames(self) -> "DataEngineConfig":
        kept = self.decode.frames_per_clip
        for name, num_frames in (
            ("captions", self.captions.num_frames),
            ("hallucination", self.hallucination.num_frames),
        ):
            if num_frames > kept:
                raise ValueError(
                    f"{name}.num_frames is {num_frames}, but decode.frames_per_clip keeps {kept} of each clip; set "
                    f"decode.frames_per_clip to {num_frames}, or {name}.num_frames to {kept}"
                )
        return self
