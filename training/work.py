"""How much a step computes: tokens and operations of its global batch, and the memory it took."""

from dataclasses import dataclass
from typing import Any

import torch

from modeling.config import STIVConfig
from modeling.flops import ClipShape, forward_flops, token_grid
from training.config import StageConfig, TrainConfig
from training.planning.gpus import peak_of_device
from training.step import TrainBatch


@dataclass(frozen=True, slots=True)
class StepWork:
    """Of a global batch."""

    num_tokens: int
    """All that its clips have."""
    num_processed: int
    """That the main blocks saw."""
    flops: int
    """Forward and backward, by the formula of `modeling.flops`."""

    def speeds(self, step_s: float, num_workers: int, peak_tflops: float | None) -> dict[str, Any]:
        """The fields of `StepMetrics` that say how fast a step of this work was."""
        tflops_per_s = self.flops / step_s / num_workers / 1e12
        return {
            "tokens_per_s": self.num_tokens / step_s,
            "tokens_processed_per_s": self.num_processed / step_s,
            "tflops_per_s": tflops_per_s,
            "mfu": None if peak_tflops is None else tflops_per_s / peak_tflops,
        }


def step_work(
    model: STIVConfig, stage: StageConfig, batch: TrainBatch, batch_size: int
) -> StepWork:
    """For a global batch of clips like those of one worker's slice."""
    num_frames, height, width = batch.latents_BCFHW.shape[2:]
    shape = ClipShape(
        num_latent_frames=num_frames,
        height=height,
        width=width,
        num_text_tokens=batch.conditions.text.tokens_BLD.shape[1],
        num_given_frames=int(batch.conditions.given_BF[0].sum()),
    )
    grid = token_grid(model, shape, stage.mask_ratio, stage.temporal_mask_ratio)
    return StepWork(
        num_tokens=batch_size * grid.num_represented,
        num_processed=batch_size * grid.num_processed,
        flops=batch_size * forward_flops(model, shape, grid).train,
    )


def peak_gpu_memory_mb(device: torch.device) -> float | None:
    """MiB that tensors took at most since the process began; None without a GPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**20


def peak_tflops(config: TrainConfig, device: torch.device) -> float | None:
    """What MFU is a share of: as stated, or in bfloat16 that of the GPU where it is known; None on a CPU."""
    if config.peak_tflops is not None:
        return config.peak_tflops
    if device.type != "cuda" or config.precision != "bfloat16":
        return None
    return peak_of_device(torch.cuda.get_device_name(device))
