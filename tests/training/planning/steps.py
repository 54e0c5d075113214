"""Real steps on the CPU, and what they take at most: what a plan is held against."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from training.config import TrainConfig
from training.distribute import Worker, gathering_gradients, replicate
from training.planning.memory import PassCase, step_inputs, tensors_of
from training.planning.needs import largest_shape
from training.recipes import RECIPES
from training.run_directory import RunDirectory
from training.shards import local
from training.state import start_state
from training.step import stage_loss

STAGE, NUM_TEXT_TOKENS = "classes", 16


def config_of(depth: int = 3, **changes: Any) -> TrainConfig:
    """A video stage from scratch, small but with activations as large as its weights."""
    values = RECIPES["class_to_video_tiny_48"]().model_dump()
    values["model"]["depth"] = depth
    values["stages"][STAGE] |= {"sizes_px": ((128, 128),), "batch_size": 4, "mask_ratio": 0.5}
    values["stages"][STAGE] |= changes.pop("stage", {})
    return TrainConfig.model_validate({**values, "num_workers": 1, **changes})


def measured_peak(rank: int, config_json: str, folder: Path) -> None:
    """Write the most bytes that tensors take at any moment of a step, the state included."""
    config = TrainConfig.model_validate_json(config_json)
    stage, model = config.stages[STAGE], config.model_of(STAGE)
    worker = Worker(rank, config.num_workers)
    state = start_state(config, STAGE, RunDirectory(folder), worker)
    network = replicate(state.model, config, stage, worker)
    share = stage.batch_size // config.num_workers
    at_once = stage.micro_batch_size or share
    case = PassCase(
        model=model,
        stage=stage,
        clip=largest_shape(config, STAGE, NUM_TEXT_TOKENS),
        micro_batch=at_once,
        recompute=config.recompute,
        device="cpu",
        half=config.precision == "bfloat16",
        half_weights=False,
        keeps_gradients=True,
    )
    torch.manual_seed(0)
    inputs = with_content(step_inputs(case))

    def step() -> None:
        for start in range(0, share, at_once):
            with gathering_gradients(network, is_last=start + at_once >= share):
                with torch.autocast("cpu", torch.bfloat16, enabled=case.half):
                    loss = stage_loss(network, (model, stage), *inputs)
                loss.loss.backward()
        state.take_step(1e-3, 1.0)

    # DDP arranges its buckets anew after the first step.
    step()
    step()
    kept = sum(local(weight).nbytes for weight in state.model.parameters())
    if config.num_workers > 1 and config.sharding == "none":
        kept += kept
    kept += sum(local(t).nbytes for s in state.optimizer.state.values() for t in s.values())
    kept += sum(local(average).nbytes for average in state.average.state_dict().values())
    (folder / f"{rank}.json").write_text(json.dumps(kept + peak_of(step)))


def peak_of(step: Any) -> int:
    """The most bytes that a call takes from the allocator, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results  # torch has no types for it
    events = results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    live = peak = 0
    for _, num_bytes in sorted(changes):
        live += num_bytes
        peak = max(peak, live)
    return peak


def with_content(step: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same tensors, filled with what a step could have."""
    for tensor in tensors_of(step):
        _fill(tensor)
    return step


def _fill(tensor: Tensor) -> None:
    if tensor.dtype == torch.bool:
        tensor.fill_(True)
    elif tensor.dtype == torch.long:
        tensor.copy_(torch.arange(tensor.numel()))
    else:
        tensor.normal_()
