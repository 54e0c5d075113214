"""The training loop of one stage, in order. Plain torch: `launch.py` starts it on Ray Train workers."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed
from torch import nn

from modeling.conditioning import TextFeatures
from training.checkpoint import load_checkpoint
from training.checkpoint_writer import CheckpointWriter, CommitCallback, KeepPolicy, is_sharded
from training.config import OptimizerConfig, StageConfig, TrainConfig
from training.distribute import (
    Worker,
    clip_gradients,
    gathering_gradients,
    replicate,
    wait_for_all,
)
from training.due import is_due
from training.encoders import (
    FITTED_AUTOENCODERS,
    FitCallback,
    fit_autoencoder,
)
from training.errors import StoppedError
from training.latent_sets import adopt_encoders
from training.run_directory import RunDirectory, StageDirectory, StageResult
from training.run_lock import locked
from training.sinks import TRACKERS
from training.spikes import SkippedSteps
from training.stage_data import StageData, open_data, plan_of
from training.state import TrainState, start_state
from training.step import BatchSlice, StepLoss, TrainBatch, draw_step, stage_loss
from training.step_lines import read_steps
from training.streaming.buckets import StagePlan
from training.streaming.index import SampleIndex
from training.streaming.loader import LoadedBatch, resident_mb
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader
from training.telemetry import (
    MeanLosses,
    StepMetrics,
    Telemetry,
    bin_losses,
    mean_losses,
    mean_of_tenth,
)
from training.validation import Validation, plan_validation
from training.work import peak_gpu_memory_mb, peak_tflops, step_work

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0
"""For the workers of a killed driver to end."""


def prepare_run(
    config: TrainConfig,
    datasets: Sequence[str | Path],
    run_dir: Path,
    stages: Sequence[str] | None = None,
    on_fit_step: FitCallback | None = None,
) -> dict[str, StagePlan]:
    """Check config, shards and run directory once for all `stages`, and fit the autoencoder if need be.

    Gives what each of them will train on; all stages of the config if none are named.

    Raises:
        DataError: the shards are broken, or hold no usable clip for a stage.
        TrainError: the directory holds another run.
    """
    run = RunDirectory(run_dir)
    index = SampleIndex.open(datasets, run.index)
    plans = {name: plan_of(index, config, name) for name in stages or config.stages}
    for name in plans:
        if config.stages[name].validation is not None:
            plan_validation(index, config, name)
    run.claim(config, index.fingerprint)
    adopt_encoders(config, index.datasets, run.autoencoder)
    if config.encoders.autoencoder in FITTED_AUTOENCODERS and not run.autoencoder.exists():
        reader = SampleReader(index, config.data, run.frames)
        fit_autoencoder(config, index, reader, run.autoencoder, on_fit_step)
    return plans


def train_stage(
    config: TrainConfig,
    stage_name: str,
    datasets: Sequence[str | Path],
    run_dir: Path,
    worker: Worker | None = None,
    on_commit: CommitCallback = lambda _path, _step: (),
) -> None:
    """Train one stage of a prepared run to its end, from its latest checkpoint if it has one.

    Every worker calls this; the first one writes metrics, checkpoints and at the end `result.json`.
    The weights start from the averaged weights of earlier stages (STIV section 2.4).

    Raises:
        TrainError: one of these is not finished, the loss stays no finite number, or another trainer writes the
            run.
        StoppedError: `worker.leaving` was set, here or on another worker; the step that was reached is saved.
        DataError, CheckpointError: a clip or a checkpoint cannot be read.
    """
    worker, run = worker or Worker(), RunDirectory(run_dir)
    with locked(run.trainer_lock, wait_s=LOCK_WAIT_S) if worker.rank == 0 else nullcontext():
        _train_stage(config, stage_name, datasets, run, (worker, on_commit))


@dataclass(frozen=True)
class _Session:
    """What the steps of a stage need on one worker, besides where they begin."""

    config: TrainConfig
    stage_name: str
    worker: Worker
    data: StageData
    state: TrainState
    network: nn.Module
    skipped: SkippedSteps
    validation: Validation | None
    telemetry: Telemetry | None
    """Of the first worker."""
    writer: CheckpointWriter


def _train_stage(
    config: TrainConfig,
    stage_name: str,
    datasets: Sequence[str | Path],
    run: RunDirectory,
    known: tuple[Worker, CommitCallback],
) -> None:
    worker, on_commit = known
    stage = config.stages[stage_name]
    directory = run.stage(stage_name)
    settings = {"stage": stage_name, "train": config.identity()}

    data = open_data(config, stage_name, datasets, run, worker)
    if worker.rank == 0:
        directory.start(data.plan.playback)
    state = start_state(config, stage_name, run, worker)
    first_step, seconds = _resumed(state, directory, settings)
    is_first = worker.rank == 0
    telemetry = _telemetry(config, stage_name, directory, first_step) if is_first else None
    skipped_path = directory.skipped_steps if is_first else None
    writer = CheckpointWriter(
        directory.checkpoints,
        worker,
        settings=settings,
        keep=KeepPolicy(last=stage.num_checkpoints_kept, every_steps=stage.keep_every_steps),
        is_sharded=is_sharded(dict(state.model.named_parameters())),
        on_commit=on_commit,
    )
    with writer, closing(telemetry) if telemetry else nullcontext():
        validation = None
        if stage.validation is not None:
            validation = Validation(config, stage_name, datasets, run, worker)
        session = _Session(
            config=config,
            stage_name=stage_name,
            worker=worker,
            data=data,
            state=state,
            network=replicate(state.model, config, stage, worker),
            skipped=SkippedSteps(skipped_path, stage_name, stage.max_skipped_steps, first_step),
            validation=validation,
            telemetry=telemetry,
            writer=writer,
        )
        seconds = _train_steps(session, first_step, seconds)
        writer.wait()
        if telemetry is not None:
            result = _stage_result(config, stage_name, data.plan, telemetry.finish(), seconds)
            directory.finish(replace(result, validation_loss=_last_loss(directory.validation)))


def _train_steps(session: _Session, first_step: int, seconds: float) -> float:
    """The steps from one on; gives the seconds spent on all, of which `seconds` were spent before."""
    config, stage_name = session.config, session.stage_name
    stage, worker = config.stages[stage_name], session.worker
    data, state, telemetry = session.data, session.state, session.telemetry
    saved = validated = first_step
    telemetry_s = 0.0
    batches = data.loader.batches(first_step, stage.num_steps)
    peak = peak_tflops(config, worker.device)
    for step in range(first_step, stage.num_steps):
        started_s = time.perf_counter()
        loaded = next(batches)
        data_wait_s = time.perf_counter() - started_s
        batch = data.encoder.encode(loaded)

        slice_ = BatchSlice(step, loaded.batch_size, loaded.places, worker.world_size)
        slice_loss = _forward_backward(
            session.network, config, stage_name, slice_, batch, data.null_text
        )
        grad_norm = clip_gradients(state.model, stage.optimizer.max_grad_norm, state.clip)
        losses, is_leaving = _mean_losses(slice_loss, worker)
        if not session.skipped.is_finite(losses.loss, grad_norm):
            state.optimizer.zero_grad()
            clip_ids = _clip_ids(data.order, loaded)
            session.skipped.skip(step + 1, losses.loss, grad_norm, clip_ids)
            # What is due comes after the next good step; the end has to come with the state there is.
            if step + 1 < stage.num_steps:
                continue
        else:
            learning_rate = warmed_up(stage.optimizer, step)
            state.take_step(learning_rate, grad_norm)
            step_s = time.perf_counter() - started_s
            seconds += step_s
            if telemetry is not None:
                work = step_work(config.model_of(stage_name), stage, batch, loaded.batch_size)
                metrics = StepMetrics(
                    step=step + 1,
                    loss=losses.loss,
                    learning_rate=learning_rate,
                    grad_norm=grad_norm,
                    **work.speeds(step_s, worker.world_size, peak),
                    data_wait_s=data_wait_s,
                    data_wait_share=data_wait_s / step_s,
                    num_skipped=data.loader.num_skipped,
                    peak_memory_mb=resident_mb(),
                    peak_gpu_memory_mb=peak_gpu_memory_mb(worker.device),
                    step_s=step_s,
                    num_workers=worker.world_size,
                    telemetry_s=telemetry_s,
                    loss_by_timestep=losses.by_timestep,
                    loss_by_task=losses.by_task,
                )
                telemetry.log(metrics)
                telemetry_s = time.perf_counter() - started_s - step_s
        if session.validation is not None and session.validation.is_due(validated, step + 1):
            held_out = session.validation.losses(state, data.encoder, data.null_text)
            validated = step + 1
            if telemetry is not None:
                telemetry.log_validation(validated, held_out)
        if is_leaving or _is_save_due(saved, step + 1, stage):
            session.writer.save(state.snapshot(step + 1, seconds))
            saved = step + 1
        if is_leaving and saved < stage.num_steps:
            _stop(session.writer, worker, stage_name, saved)
    return seconds


def _resumed(
    state: TrainState, directory: StageDirectory, settings: dict[str, Any]
) -> tuple[int, float]:
    """Steps done and seconds spent, after the state has taken over the latest checkpoint."""
    stored = load_checkpoint(directory.checkpoints, settings=settings, normalise=_known_settings)
    if stored is None:
        return 0, 0.0
    state.restore(stored)
    return stored.step, stored.seconds


def _is_save_due(saved: int, steps_done: int, stage: StageConfig) -> bool:
    is_end = steps_done == stage.num_steps
    return is_end or is_due(stage.checkpoint_every_steps, saved, steps_done)


def _stop(writer: CheckpointWriter, worker: Worker, stage_name: str, step: int) -> NoReturn:
    writer.wait()
    # The parts of the others are written when they come here; the first worker then has named the checkpoint.
    wait_for_all(worker)
    raise StoppedError(
        f"stage {stage_name} was asked to stop and did so after step {step}, which is saved; go on with --resume"
    )


def warmed_up(optimizer: OptimizerConfig, step: int) -> float:
    """Linear from zero over the warm-up, then constant (STIV section 3.1); `step` counts from 0."""
    if optimizer.warmup_steps == 0:
        return optimizer.learning_rate
    return optimizer.learning_rate * min(1.0, (step + 1) / optimizer.warmup_steps)


def _forward_backward(
    network: nn.Module,
    config: TrainConfig,
    stage_name: str,
    slice_: BatchSlice,
    batch: TrainBatch,
    null_text: TextFeatures,
) -> StepLoss:
    """Leave the gradient of the global batch's mean loss in the parameters."""
    stage, device = config.stages[stage_name], batch.latents_BCFHW.device
    draws = draw_step(
        stage,
        (config.seed, stage_name),
        slice_,
        batch.latents_BCFHW.shape[1:],
        _token_grid(config, stage_name, batch),
    ).to(device)
    of_stage = config.model_of(stage_name), stage
    parts = slice_.parts(stage.micro_batch_size)
    losses: list[StepLoss] = []
    for number, (samples, weight) in enumerate(parts, start=1):
        with gathering_gradients(network, is_last=number == len(parts)):
            with torch.autocast(
                device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
            ):
                part = batch.part(samples), draws.part(samples)
                loss = stage_loss(network, of_stage, *part, null_text)
            (loss.loss * weight).backward()
        if weight > 0:
            losses.append(loss)
    per_sample_B = torch.cat([loss.per_sample_B for loss in losses])
    task_B = torch.cat([loss.task_B for loss in losses])
    return StepLoss(per_sample_B.mean(), per_sample_B, draws.t_B, task_B)


def _token_grid(config: TrainConfig, stage_name: str, batch: TrainBatch) -> tuple[int, int, int]:
    """Temporal tokens, rows and columns of one clip."""
    model = config.model_of(stage_name)
    num_frames, height, width = batch.latents_BCFHW.shape[2:]
    num_temporal = math.ceil(num_frames / model.temporal_patch)
    return num_temporal, height // model.spatial_patch, width // model.spatial_patch


def _mean_losses(result: StepLoss, worker: Worker) -> tuple[MeanLosses, bool]:
    """Of the global batch, and whether some worker is about to be taken away: one message for both."""
    sums = bin_losses(result.per_sample_B, result.t_B, result.task_B)
    leaving = sums.new_tensor([float(worker.leaving.is_set())])
    together = torch.cat([sums.flatten(), leaving])
    if worker.world_size > 1:
        torch.distributed.all_reduce(together)
    return mean_losses(together[:-1].view_as(sums)), bool(together[-1] > 0)


def _clip_ids(order: SampleOrder, batch: LoadedBatch) -> list[str]:
    """The clips of a global batch, before any of them was replaced because it could not be read."""
    places = range(batch.batch_size)
    return [order.sample(batch.step, place).clip.clip_id for place in places]


def _telemetry(
    config: TrainConfig, stage_name: str, directory: StageDirectory, first_step: int
) -> Telemetry:
    stage = config.stages[stage_name]
    settings = {
        "recipe": config.name,
        "stage": stage_name,
        "task": stage.task,
        "seed": config.seed,
        "batch_size": stage.batch_size,
        "num_steps": stage.num_steps,
        **stage.optimizer.model_dump(),
    }
    sinks = [
        TRACKERS[name](directory.path / name, f"{config.name}/{stage_name}", settings)
        for name in config.trackers
    ]
    return Telemetry(directory, first_step, sinks)


def _known_settings(found: dict[str, Any]) -> dict[str, Any]:
    return {"stage": found["stage"], "train": TrainConfig.identity_of(found["train"])}


def _last_loss(validation: Path) -> float | None:
    lines = read_steps(validation)
    return lines[-1]["loss"] if lines else None


def _stage_result(
    config: TrainConfig,
    stage_name: str,
    plan: StagePlan,
    metrics: Sequence[dict[str, Any]],
    seconds: float,
) -> StageResult:
    losses = [line["loss"] for line in metrics]
    stage = config.stages[stage_name]
    checkpoint = StageDirectory(Path(stage_name)).checkpoints / f"step-{stage.num_steps:06d}"
    return StageResult(
        stage=stage_name,
        task=stage.task,
        num_steps=stage.num_steps,
        first_loss=mean_of_tenth(losses, last=False),
        last_loss=mean_of_tenth(losses, last=True),
        seconds=seconds,
        checkpoint=str(checkpoint),
        playback_fps=plan.playback.fps / config.data_of(stage_name).sampling_stride,
        original_height_px=plan.playback.height_px,
        original_width_px=plan.playback.width_px,
        num_clips=plan.num_samples,
        num_clips_too_short=plan.num_too_short,
        num_clips_without_caption=plan.num_without_caption,
    )
