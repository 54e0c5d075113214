"""A long video: key frames first, then the frames between each two of them (STIV section 5).

Both come from stages of one run: one that was trained on frames far apart, and one that fills the gap between a first and a
last frame. Their micro-conditions differ, since each has the stride that it was trained at.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from training.clip_sampler import ClipRequest, ClipSampler, SampledClip
from training.config import TrainConfig
from training.generate_request import makes_views
from training.run_directory import RunDirectory
from training.trained_shapes import TrainedShape


def long_frame_count(num_keys: int, gap_frames: int, *, strict_join: bool) -> int:
    """(K - 1) x F frames from K key frames and gaps of F frames: as in the paper each gap keeps both of its ends, so a
    key frame is seen twice, as (20 - 1) x 20 = 380 counts it; with `strict_join` it is seen once."""
    gaps = num_keys - 1
    return gaps * (gap_frames - 1) + 1 if strict_join else gaps * gap_frames


def sample_long(
    samplers: tuple[ClipSampler, ClipSampler],
    asked: ClipRequest,
    gap: TrainedShape,
    *,
    strict_join: bool,
    on_step: Callable[[int, int], None] | None = None,
) -> SampledClip:
    """All frames. `samplers` make the key frames that are asked for, and the gaps, which have the shape `gap`.

    Raises:
        GenerateError: a text is too long, or there is too little memory.
    """
    of_keys, of_gaps = samplers
    steps, num_clips = asked.sampler.num_sampling_steps, asked.shape.num_frames

    def show(clip: int) -> Callable[[int, int], None]:
        def tell(done: int, _: int) -> None:
            if on_step is not None:
                on_step(clip * steps + done, num_clips * steps)

        return tell

    keys = of_keys.sample(asked, show(0))
    parts: list[Tensor] = []
    num_gaps = num_clips - 1
    for place in range(num_gaps):
        ends = {0: keys.frames_FHWC[place], gap.num_frames - 1: keys.frames_FHWC[place + 1]}
        between = replace(asked, shape=gap, given=ends, seed=asked.seed + place + 1)
        frames = of_gaps.sample(between, show(place + 1)).frames_FHWC
        parts.append(frames[:-1] if strict_join and place < num_gaps - 1 else frames)
    return SampledClip(torch.cat(parts), keys.given_psnr_db)


def widest_stage(config: TrainConfig, run: RunDirectory) -> str | None:
    """The finished stage that animates, of the largest stride; None lets the task choose."""
    strides = {
        name: config.data_of(name).sampling_stride
        for name, stage in config.stages.items()
        if stage.task == "stiv"
        and "first" in stage.given
        and not makes_views(stage)
        and run.stage(name).result() is not None
    }
    return max(strides, key=lambda name: strides[name], default=None)
