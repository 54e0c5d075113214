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
from training.checkpoint import load_average
from training.config import LATENT_DOWNSAMPLING, PreviewConfig, TrainConfig
from training.encoders import FrozenEncoders, load_encoders, micro_conditions
from training.errors import TrainError
from training.randomness import derive_seed, generator_at
from training.run_directory import RunDirectory
from training.streaming.buckets import plan_stage
from training.streaming.index import SampleIndex
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


class Previews:
    """Those of one stage, asked for by the worker that writes checkpoints. One is made at a time."""

    def __init__(
        self, config: TrainConfig, stage_name: str, datasets: Sequence[str | Path], run_dir: Path
    ) -> None:
        settings = config.stages[stage_name].previews
        assert settings is not None, "the caller asks"
        self._settings = settings
        self._task = (config.model_dump_json(), stage_name, tuple(map(str, datasets)), str(run_dir))
        self._running: ray.ObjectRef[list[str]] | None = None

    def at_checkpoint(self, checkpoint: Path, step: int) -> None:
        """Start a preview if one is due and none is being made; returns at once."""
        if step % self._settings.every_steps:
            return
        if self._running is not None:
            if not ray.wait([self._running], timeout=0)[0]:
                logger.warning("no preview of step %d: the one before is not finished", step)
                return
            self._take(0)
        # A process of its own: it stays nice, and its memory goes back.
        make = ray.remote(num_cpus=0, num_gpus=self._settings.num_gpus, max_calls=1)(_make_beside)
        self._running = make.remote(PreviewTask(*self._task, str(checkpoint)))

    def finish(self) -> None:
        """Wait for the last one: Ray ends tasks together with the worker that asked for them."""
        self._take(LAST_TIMEOUT_S)

    def _take(self, timeout_s: float) -> None:
        if self._running is None:
            return
        try:
            ray.get(self._running, timeout=timeout_s)
        except (RayError, GetTimeoutError) as error:
            # A preview is to look at; training does not end for the want of one.
            logger.warning("a preview could not be made: %s", error)
        self._running = None


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
        config.model_dump_json(), stage_name, tuple(datasets), str(run.path), str(checkpoint)
    )
    sheets = [Path(path) for path in make_previews(task) if path.endswith(".png")]
    return list(zip(prompts, sheets, strict=True))


def make_previews(task: PreviewTask) -> list[str]:
    """Write RUN/<stage>/previews/step-NNNNNN-M.mp4 and .png for prompt M; gives their paths.

    The same noise each time, so that previews of one prompt can be compared.

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
    for place, prompt in enumerate(stage.previews.prompts):
        conditions = _conditions(
            config, task.stage_name, prompt, (encoders, (playback.height_px, playback.width_px))
        )
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
        path = folder / f"{Path(task.checkpoint).name}-{place}"
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
