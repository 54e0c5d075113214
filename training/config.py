"""A complete run as frozen, checked, plain data. `recipes.py` holds the named ones."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from modeling.config import GuidanceConfig, SamplerConfig, STIVConfig
from modeling.settings import (
    LATENT_DOWNSAMPLING,
    FrozenModel,
    GivenFrames,
    RecomputePolicy,
    TimestepDistribution,
    given_positions,
)
from training.data_config import DataConfig, check_sides
from training.encoder_config import EncoderConfig
from training.placement import PLACEMENT_FIELDS

Task = Literal["t2i", "t2v", "stiv"]
"""`t2i` trains on single frames, `t2v` on clips, `stiv` on clips whose first frame is given."""


class OptimizerConfig(FrozenModel):
    """AdaFactor with constant decays (STIV section 3.1), or AdamW, which it replaced (table 2)."""

    name: Literal["adafactor", "adamw"] = "adafactor"
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup_steps: int = Field(default=1000, ge=0)
    """Optimizer steps over which the learning rate rises from zero; constant afterwards."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Without it, 0, AdaFactor keeps no momentum at all."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    beta2_power: float | None = Field(default=None, gt=0, le=1)
    """Of AdaFactor: if set, beta2 at step n is 1 - n^-beta2_power instead of constant. Its paper has 0.8
    (arXiv 1804.04235, section 7.2)."""
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of AdaFactor: bfloat16 halves what it keeps; the average is taken in float32 and then rounded."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    clip_deviations: float | None = Field(default=None, gt=0)
    """If set, gradient norms are also clipped this many standard deviations above their running mean."""

    @model_validator(mode="after")
    def _options_are_read(self) -> Self:
        if self.name == "adamw" and (self.beta2_power or self.momentum_dtype != "float32"):
            raise ValueError(
                f"beta2_power {self.beta2_power} and momentum_dtype {self.momentum_dtype!r} are options of adafactor; "
                "adamw takes none"
            )
        if self.beta1 == 0 and self.momentum_dtype != "float32":
            raise ValueError(
                f"momentum_dtype {self.momentum_dtype!r} with beta1 0, which keeps no momentum; leave it out"
            )
        return self


class ValidationConfig(FrozenModel):
    """Clips that a stage does not train on, and how often their loss is computed."""

    share: float = Field(gt=0, lt=1)
    """Of all clips; which ones is a function of their ids alone."""
    every_steps: int = Field(ge=1)
    """Besides after the last step."""
    batch_size: int = Field(default=4, ge=1)
    """Clips at once over all workers."""
    num_batches: int = Field(default=4, ge=1)


class PreviewConfig(FrozenModel):
    """Videos to look at while a stage trains, made beside it from its checkpoints: by text alone, and of a held-out clip
    from its given frames where a stage gives some and has a `validation`."""

    every_steps: int = Field(ge=1)
    """A multiple of `checkpoint_every_steps`."""
    prompts: tuple[str, ...] = Field(min_length=1)
    num_gpus: float = Field(default=0, ge=0)
    """Of the task that samples, besides those of the workers; with 0 it samples on the CPU, which takes hours for a
    large network. Where the cluster has too few in all, no previews are made, and the log says so."""


class StageConfig(FrozenModel):
    """One stage of the chain: a task, its clips and how long to train on them."""

    task: Task
    num_steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Clips per optimizer step over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Clips that a worker passes through the network at once, adding up gradients; all of its share, if not set."""
    init_from: str | None = None
    """The stage whose averaged weights this one starts from; the one before it, if not set."""
    temporal_from: str | None = None
    """A video stage whose temporal attention is taken over; all else comes from `init_from`: initialisation from
    "both" (STIV section 2.4, table 6b)."""
    sizes_px: tuple[tuple[int, int], ...] = ()
    """(height, width) that this stage trains at, the main one first, instead of those of `data`."""
    sampling_stride: int | None = Field(default=None, ge=1)
    """Of this stage, instead of that of `data`."""
    num_frames: int = Field(ge=1)
    more_num_frames: tuple[int, ...] = ()
    """Further lengths: a clip is trained at the longest one that it holds."""
    image_share: float = Field(default=0.0, ge=0, lt=1)
    """In a video stage, the share of samples that are single frames or images."""
    tokens_per_batch: int | None = Field(default=None, ge=1)
    """If set, each shape has as large a batch as this allows, and `batch_size` is not looked at."""
    batch_multiple: int = Field(default=1, ge=1)
    """What these batch sizes are multiples of: of the number of workers, however many there may be."""
    subset: str | None = None
    """Only clips of this named set of the data engine (`subsets` of its configuration), such as `sft`."""
    text_dropout_prob: float = Field(default=0.1, ge=0, le=1)
    image_dropout_prob: float = Field(default=0.08, ge=0, le=1)
    """Only a `stiv` stage gives an image, so only there it is dropped (STIV appendix B)."""
    given: tuple[GivenFrames, ...] = Field(default=("first",), min_length=1)
    """Which latent frames a `stiv` stage gives; with more than one, each sample draws one of them evenly."""
    loss_on_given_frames: bool = False
    """Let given frames carry loss as well, as STIV tried (table 3, "FFL")."""
    mask_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the spatial positions that MaskDiT drops (STIV section 2.2)."""
    temporal_mask_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the temporal positions that are dropped as well; harmful in STIV (table 6a)."""
    masked_loss: Literal["kept", "all"] = "kept"
    """Positions that carry loss under masking. Not stated in STIV; MaskDiT takes the kept ones."""
    timesteps: TimestepDistribution = "logit_normal"
    timestep_shift: float = Field(default=1.0, gt=0)
    """Above 1, times closer to the noise, for higher resolutions (`modeling.flow.shift_timesteps`)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    max_skipped_steps: int = Field(default=3, ge=0)
    """Steps in a row whose loss or gradient is not finite; they change nothing, and one more stops the run."""
    validation: ValidationConfig | None = None
    previews: PreviewConfig | None = None
    checkpoint_every_steps: int = Field(ge=1)
    """A killed run does at most so many steps again, and those that were taken while the last checkpoint was written."""
    num_checkpoints_kept: int = Field(default=2, ge=1)
    """The last ones; the first one of every `keep_every_steps` steps stays for good."""
    keep_every_steps: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _previews_have_checkpoints(self) -> Self:
        if self.previews and self.previews.every_steps % self.checkpoint_every_steps:
            raise ValueError(
                f"previews.every_steps {self.previews.every_steps} must be a multiple of "
                f"checkpoint_every_steps {self.checkpoint_every_steps}: they are made from checkpoints"
            )
        return self

    @model_validator(mode="after")
    def _frames_fit_the_task(self) -> Self:
        check_sides("sizes_px", self.sizes_px)
        if (self.task == "t2i") != (self.num_frames == 1):
            raise ValueError(
                f"a {self.task} stage has num_frames {self.num_frames}; "
                "t2i takes exactly 1, t2v and stiv at least 2"
            )
        if self.task == "t2i" and (self.more_num_frames or self.image_share):
            raise ValueError("a t2i stage has neither more_num_frames nor an image_share")
        if any(count < 2 for count in self.more_num_frames):
            raise ValueError(f"more_num_frames {self.more_num_frames} must be at least 2 each")
        if len(set(self.frame_counts)) < len(self.frame_counts):
            raise ValueError(f"the numbers of frames {self.frame_counts} name one twice")
        if self.task == "stiv":
            for which in self.given:
                for num_frames in self.frame_counts:
                    given_positions(which, num_frames)
        return self

    @property
    def frame_counts(self) -> tuple[int, ...]:
        """Every number of frames that clips are trained at."""
        return (self.num_frames, *self.more_num_frames)

    @property
    def batch_unit(self) -> int:
        """Every batch size is a multiple of this."""
        return self.batch_size if self.tokens_per_batch is None else self.batch_multiple


class TrainConfig(FrozenModel):
    """A whole run: stages in order, each starting from the EMA weights of the last or of those that it names."""

    name: str
    model: STIVConfig
    encoders: EncoderConfig
    data: DataConfig
    stages: dict[str, StageConfig] = Field(min_length=1)
    sampler: SamplerConfig
    """How `generate` samples unless told otherwise."""
    guidance: GuidanceConfig
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass; parameters, optimizer state and EMA are float32."""
    sharding: Literal["none", "full", "hybrid"] = "none"
    """What each worker keeps of weights, optimizer state and EMA: all (DDP), a part (FSDP2), or a part within each
    group of `shard_group_size` workers, such as those of one machine (HSDP)."""
    shard_group_size: int | None = Field(default=None, ge=1)
    average_on_cpu: bool = False
    """Keep the EMA in host memory."""
    compile_blocks: bool = False
    """Compile each block (`torch.compile`): slow first steps for each shape of clips, faster ones afterwards."""
    reduce_precision: Literal["float32", "bfloat16"] = "float32"
    """What gradients are sent in when workers add them up; parameters and optimizer take the sum as float32."""
    recompute: RecomputePolicy = "none"
    """What the backward pass computes again to save memory."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """What one worker could compute at most, such as 989 for bfloat16 on an H100 or H200: what MFU is a share of. If not set, in bfloat16 on a
    GPU that is known (`training.planning.gpus`) what its data sheet says."""
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Where the metrics go besides TensorBoard."""
    num_workers: int = Field(default=2, ge=1)
    min_workers: int | None = Field(default=None, ge=1)
    """If set, Ray Train trains on as many workers from this to `num_workers` as there is room for, and changes their
    number while machines come and go: from the latest checkpoint, on the same samples."""
    resize_check_s: float = Field(default=60.0, gt=0)
    """How often it looks whether there is room for more."""
    max_worker_failures: int = Field(default=3, ge=0)
    """How many times workers that failed are started again while no new checkpoint comes. As long as checkpoints come
    there is no limit, and a mistake in what they were given stops the run at once."""
    threads_per_worker: int = Field(default=1, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        unit_px = LATENT_DOWNSAMPLING * self.model.spatial_patch
        for height_px, width_px in self.all_sizes():
            if height_px % unit_px or width_px % unit_px:
                raise ValueError(
                    f"training size {height_px}x{width_px} px must be a multiple "
                    f"of {unit_px} px (autoencoder factor times spatial patch)"
                )
        for name, stage in self.stages.items():
            if stage.batch_unit % self.num_workers:
                field = "batch_size" if stage.tokens_per_batch is None else "batch_multiple"
                raise ValueError(
                    f"stages.{name}.{field} {stage.batch_unit} must be a multiple of "
                    f"num_workers {self.num_workers}"
                )
            if stage.validation and stage.validation.batch_size % self.num_workers:
                raise ValueError(
                    f"stages.{name}.validation.batch_size {stage.validation.batch_size} must be a "
                    f"multiple of num_workers {self.num_workers}"
                )
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        if not self.encoders.class_names:
            return self
        width = len(self.encoders.class_names) + 1
        found = (self.model.text_width, self.model.pooled_text_width)
        if found != (width, width):
            raise ValueError(
                f"{width - 1} class names need model.text_width {width} and model.pooled_text_width {width}, one place for each "
                f"and one for none; found {found[0]} and {found[1]}"
            )
        return self

    @model_validator(mode="after")
    def _fewest_workers(self) -> Self:
        if self.min_workers is None:
            return self
        if self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is above num_workers {self.num_workers}"
            )
        if self.sharding == "hybrid":
            raise ValueError(
                "min_workers with sharding 'hybrid': any number of workers does not form groups; "
                "take 'full' or 'none', or leave min_workers out"
            )
        return self

    @model_validator(mode="after")
    def _workers_form_groups(self) -> Self:
        group = self.shard_group_size
        if (self.sharding == "hybrid") != (group is not None):
            raise ValueError(
                f"sharding {self.sharding!r} with shard_group_size {group}; hybrid needs it, the others take none"
            )
        if group is not None and self.num_workers % group:
            raise ValueError(
                f"num_workers {self.num_workers} must be a multiple of shard_group_size {group}"
            )
        return self

    @model_validator(mode="after")
    def _stages_are_ordered(self) -> Self:
        order = [stage.task for stage in self.stages.values()]
        ranks = [("t2i", "t2v", "stiv").index(task) for task in order]
        if ranks != sorted(ranks):
            raise ValueError(f"stages run {order}; the order is t2i, then t2v, then stiv")
        for name in self.stages:
            if not name.isidentifier():
                raise ValueError(f"stage name {name!r} must be a plain word: it names a folder")
        return self

    @model_validator(mode="after")
    def _stages_start_from_earlier_ones(self) -> Self:
        names = list(self.stages)
        for place, (name, stage) in enumerate(self.stages.items()):
            earlier = names[:place]
            for field in ("init_from", "temporal_from"):
                other = getattr(stage, field)
                if other is not None and other not in earlier:
                    raise ValueError(
                        f"stages.{name}.{field} is {other!r}; before it come {', '.join(earlier) or 'none'}"
                    )
            if stage.temporal_from is None:
                continue
            if stage.task == "t2i" or self.stages[stage.temporal_from].task == "t2i":
                raise ValueError(
                    f"stages.{name}.temporal_from is {stage.temporal_from!r}; both must be video stages"
                )
        return self

    def all_sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (height, width) that some stage trains at."""
        sizes = [size for name in self.stages for size in self.data_of(name).sizes]
        return tuple(dict.fromkeys(sizes))

    def data_of(self, stage_name: str) -> DataConfig:
        """What a stage reads from the clips, at its own size and stride."""
        stage = self.stages[stage_name]
        changes: dict[str, Any] = {}
        if stage.sizes_px:
            (height_px, width_px), *more = stage.sizes_px
            changes |= {"height_px": height_px, "width_px": width_px, "more_sizes_px": tuple(more)}
        if stage.sampling_stride is not None:
            changes["sampling_stride"] = stage.sampling_stride
        return DataConfig.model_validate({**self.data.model_dump(), **changes})

    def starts_of(self, stage_name: str) -> tuple[str, ...]:
        """The stages that the weights of a stage come from; none for the first one."""
        names, stage = list(self.stages), self.stages[stage_name]
        place = names.index(stage_name)
        before = stage.init_from or (names[place - 1] if place else None)
        return tuple(name for name in (before, stage.temporal_from) if name is not None)

    def needed_for(self, stage_name: str) -> list[str]:
        """A stage and all that its weights come from, in the order in which they are trained."""
        needed, new = {stage_name}, [stage_name]
        while new:
            new = [s for name in new for s in self.starts_of(name) if s not in needed]
            needed.update(new)
        return [name for name in self.stages if name in needed]

    def model_of(self, stage_name: str) -> STIVConfig:
        """The network of a stage. An image model has no temporal attention and a temporal patch of 1.

        The first video stage inflates its patch embedding along time (STIV appendix B). What serves given
        frames only comes with the first stage that gives some.
        """
        changes: dict[str, Any] = {}
        if self.stages[stage_name].task != "stiv":
            contract = self.model.contract.model_copy(update={"frame_replacement": True})
            changes |= {"image_attention": "none", "contract": contract}
        if self.stages[stage_name].task == "t2i":
            changes |= {"temporal_patch": 1, "temporal_attention": False}
        return self.model.model_copy(update=changes)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is computed, as plain values."""
        fields = self.model_dump(mode="json", exclude=PLACEMENT_FIELDS)
        # Mappings with the same entries in another order are equal; the order of the stages matters.
        return {**fields, "order_of_stages": list(self.stages)}

    @classmethod
    def identity_of(cls, found: dict[str, Any]) -> dict[str, Any]:
        """An identity that an older version wrote, with the fields that have come since.

        Raises:
            ValidationError: it is of no version that this one knows.
        """
        # One worker fits any batch size; it is no part of an identity.
        plain = {key: value for key, value in found.items() if key != "order_of_stages"}
        # So does any number of steps between two validations, which has no default.
        stages = {
            name: {**stage, "validation": {"every_steps": 1, **stage["validation"]}}
            if stage.get("validation")
            else stage
            for name, stage in found["stages"].items()
        }
        return cls.model_validate({**plain, "stages": stages, "num_workers": 1}).identity()
