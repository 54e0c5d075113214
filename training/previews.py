"""Videos sampled from the averaged weights while training goes on: a Ray task beside the workers makes them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from modeling.conditioning import Conditions
from modeling.sampler import SamplingTask, sample
from modeling.stiv import STIV
from training.checkpoint import latest_step, load_average
from training.config import LATENT_DOWNSAMPLING, PreviewConfig, TrainConfig
from training.due import is_due
from training.encoders import BatchEncoder, FrozenEncoders, load_encoders, micro_conditions
from training.errors import TrainError
from training.randomness import derive_seed, generator_at
from training.run_directory import RunDirectory
from training.streaming.buckets import plan_stage
from training.streaming.index import SampleIndex
from training.validation import held_out_batches
from training.video_file import enlarge, write_contact_sheet, write_video

logger = logging.getLogger(__name__)

LAST_TIMEOUT_S = 600.0
"""For the preview of the last checkpoint, which the end of the stage waits for."""
NICENESS = 10


@dataclass(frozen=True)
class PreviewTask:
    """Plain values, since Ray sends them to the task."""

    config_json: str
    stage_name: str
    datasets: tuple[str, ...]
    run_dir: str
    checkpoint: str
    with_given: bool = True
    """Also of a held-out clip, where the stage allows it."""


class Previews:
    """Those of one stage, asked for by the worker that writes checkpoints. One is made at a time."""

    def __init__(
        self, config: TrainConfig, stage_name: str, datasets: Sequence[str | Path], run_dir: Path
    ) -> None:
        settings = config.stages[stage_name].previews
        assert settings is not None, "the caller asks"
        self._settings = settings
        self._num_gpus_needed = gpus_needed(config, settings)
        self._task = (config.model_dump_json(), stage_name, tuple(map(str, datasets)), str(run_dir))
        self._last = latest_step(RunDirectory(run_dir).stage(stage_name).checkpoints) or 0
        self._waiting: tuple[int, Path] | None = None
        self._running: tuple[int, ray.ObjectRef[list[str]]] | None = None

    def at_checkpoint(self, checkpoint: Path, step: int) -> set[int]:
        """Start a preview if one is due, as soon as the one before is done; returns at once.

        Gives the steps of the checkpoints that must stay, because a preview is made of them or will be.
        """
        if is_due(self._settings.every_steps, self._last, step) and self._has_room(step):
            if self._waiting is not None:
                logger.warning(
                    "no preview of step %d: the one before took too long", self._waiting[0]
                )
            self._waiting = step, checkpoint
        self._last = step
        if self._running is not None and ray.wait([self._running[1]], timeout=0)[0]:
            self._take(0)
        self._start()
        return {used[0] for used in (self._running, self._waiting) if used is not None}

    def finish(self) -> None:
        """Wait for the last ones: Ray ends tasks together with the worker that asked for them."""
        while self._running is not None:
            self._take(LAST_TIMEOUT_S)
            self._start()

    def _has_room(self, step: int) -> bool:
        """Whether the cluster has the GPUs at all; a task that never starts would hold up the end of the stage."""
        found = ray.cluster_resources().get("GPU", 0.0)
        if self._settings.num_gpus == 0 or found >= self._num_gpus_needed:
            return True
        logger.warning(
            "no preview of step %d: %s", step, too_few_gpus(self._num_gpus_needed, found)
        )
        return False

    def _start(self) -> None:
        if self._running is not None or self._waiting is None:
            return
        (step, checkpoint), self._waiting = self._waiting, None
        # A process of its own: it stays nice, and its memory goes back.
        make = ray.remote(num_cpus=0, num_gpus=self._settings.num_gpus, max_calls=1)(_make_beside)
        self._running = step, make.remote(PreviewTask(*self._task, str(checkpoint)))

    def _take(self, timeout_s: float) -> None:
        assert self._running is not None, "the callers ask"
        step, videos = self._running
        try:
            ray.get(videos, timeout=timeout_s)
        except (RayError, GetTimeoutError) as error:
            # A preview is to look at; training does not end for the want of one.
            logger.warning("the preview of step %d could not be made: %s", step, error)
        self._running = None


def gpus_needed(config: TrainConfig, settings: PreviewConfig) -> float:
    """By the workers and the task that samples together."""
    return settings.num_gpus + (config.num_workers if config.device == "cuda" else 0)


def too_few_gpus(needed: float, found: float) -> str:
    """What is wrong, and what to do about it."""
    return (
        f"the workers and the previews need {needed:g} GPUs together, and the cluster has {found:g}; add GPUs, take "
        "fewer workers, or set previews.num_gpus=0 to sample on the CPU"
    )


def preview_warnings(config: TrainConfig, stages: Sequence[str], num_gpus: float) -> list[str]:
    """What to tell before training about the previews of these stages on a cluster of so many GPUs."""
    told: list[str] = []
    for name in stages:
        settings = config.stages[name].previews
        if settings is None:
            continue
        needed = gpus_needed(config, settings)
        if settings.num_gpus and needed > num_gpus:
            told.append(f"stage {name} will have no previews: {too_few_gpus(needed, num_gpus)}")
        elif config.device == "cuda" and settings.num_gpus == 0:
            told.append(
                f"stage {name} samples its previews on the CPU, which takes hours for a large network; "
                "previews.num_gpus=1 takes a GPU besides those of the workers"
            )
    return told


def _make_beside(task: PreviewTask) -> list[str]:
    os.nice(NICENESS)
    return make_previews(task)


def sample_stage(
    run_dir: Path, stage_name: str, datasets: Sequence[str], prompts: Sequence[str]
) -> list[tuple[str, Path]]:
    """Previews of a finished stage for other prompts than its own; gives each prompt and its contact sheet.

    Raises:
        TrainError: the directory holds no run, or the stage is not finished.
        CheckpointError: its checkpoint is damaged.
    """
    run = RunDirectory(run_dir)
    config, result = run.load_config(), run.stage(stage_name).result()
    if result is None:
        raise TrainError(f"stage {stage_name} of {run_dir} is not finished; train it first")
    previews = PreviewConfig(
        every_steps=config.stages[stage_name].checkpoint_every_steps, prompts=tuple(prompts)
    )
    stage = config.stages[stage_name].model_copy(update={"previews": previews})
    config = config.model_copy(update={"stages": {**config.stages, stage_name: stage}})
    checkpoint = run.path / result.checkpoint
    task = PreviewTask(
        config.model_dump_json(),
        stage_name,
        tuple(datasets),
        str(run.path),
        str(checkpoint),
        with_given=False,
    )
    sheets = [Path(path) for path in make_previews(task) if path.endswith(".png")]
    return list(zip(prompts, sheets, strict=True))


def make_previews(task: PreviewTask) -> list[str]:
    """Write RUN/<stage>/previews/step-NNNNNN-M.mp4 and .png for prompt M; gives their paths.

    The same noise each time, so that previews of one prompt can be compared. A stage that gives frames and holds clips
    out has one more, step-NNNNNN-given: a held-out clip by its caption and its given frames.

    Raises:
        CheckpointError: the checkpoint is damaged, or was deleted meanwhile.
    """
    config = TrainConfig.model_validate_json(task.config_json)
    stage, run = config.stages[task.stage_name], RunDirectory(Path(task.run_dir))
    assert stage.previews is not None, "the caller asks"
    torch.set_num_threads(config.threads_per_worker)
    weights = load_average(Path(task.checkpoint))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = STIV(config.model_of(task.stage_name))
    model.load_state_dict(weights)
    model.to(device).eval()
    encoders = load_encoders(config, run.autoencoder, device)
    patches = (model.config.temporal_patch, model.config.spatial_patch)
    index = SampleIndex.open(task.datasets, run.index)
    data = config.data_of(task.stage_name)
    playback = plan_stage(index, stage, data, patches, config.all_sizes()).playback
    folder = run.stage(task.stage_name).previews
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    wanted = [
        _conditions(
            config, task.stage_name, prompt, (encoders, (playback.height_px, playback.width_px))
        )
        for prompt in stage.previews.prompts
    ]
    names = [str(place) for place in range(len(wanted))]
    if task.with_given and stage.task == "stiv" and stage.validation is not None:
        alone = (0, stage.validation.batch_size)
        held_out = next(held_out_batches(index, config, task.stage_name, run, alone))
        wanted.append(BatchEncoder(encoders, device).encode(held_out).conditions)
        names.append("given")
    for place, (name, conditions) in enumerate(zip(names, wanted, strict=True)):
        shape = conditions.given_latents_BCFHW.shape
        sampling = SamplingTask(
            model=model,
            conditions=conditions.to(device),
            null_text=encoders.null_text.to(device),
            noise_BCFHW=torch.randn(
                shape, generator=generator_at(config.seed, "preview", place)
            ).to(device),
            sampler=config.sampler,
            guidance=config.guidance,
            contract=model.config.contract,
        )
        seed = derive_seed(config.seed, "preview", place, "solver")
        latents = sample(sampling, torch.Generator(device).manual_seed(seed))
        frames = enlarge(encoders.autoencoder.decode(latents).cpu()[0].numpy())
        path = folder / f"{Path(task.checkpoint).name}-{name}"
        write_contact_sheet(frames, path.with_suffix(".png"))
        written.append(str(path.with_suffix(".png")))
        if len(frames) > 1:
            fps = playback.fps / data.sampling_stride
            write_video(frames, path.with_suffix(".mp4"), fps)
            written.append(str(path.with_suffix(".mp4")))
    return written


def _conditions(
    config: TrainConfig,
    stage_name: str,
    prompt: str,
    known: tuple[FrozenEncoders, tuple[int, int]],
) -> Conditions:
    """Text alone; `known` are the encoders and (height, width) of the sources."""
    encoders, original_px = known
    num_frames = config.stages[stage_name].num_frames
    data = config.data_of(stage_name)
    size_px = data.sizes[0]
    rows, columns = (side // LATENT_DOWNSAMPLING for side in size_px)
    return Conditions(
        text=encoders.text.encode([prompt]),
        micro=micro_conditions(
            original_px, size_px, stride=data.sampling_stride, num_frames=num_frames
        ),
        given_BF=torch.zeros(1, num_frames, dtype=torch.bool),
        given_latents_BCFHW=torch.zeros(1, config.model.latent_channels, num_frames, rows, columns),
    )
