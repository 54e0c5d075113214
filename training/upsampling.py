"""A whole video at twice its rate: the clips of a stage that is given every second frame, joined (STIV section 5)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from training.clip_sampler import ClipRequest, ClipSampler, SampledClip
from training.randomness import derive_seed


def clip_starts(num_given: int, given_per_clip: int) -> list[int]:
    """The first given frame of each clip that it takes to cover all of them.

    Neighbours share a given frame, so that a frame that is made lies between two that are given; the last clip is moved
    back to end with the video. At least `given_per_clip` frames are given.
    """
    assert num_given >= given_per_clip >= 1
    last = num_given - given_per_clip
    starts = list(range(0, last, max(1, given_per_clip - 1)))
    return [*starts, last]


def upsampled_frame_count(num_given: int, clip_frames: int) -> int:
    """Twice as many frames as are given, or one less where a clip ends with a given one."""
    return 2 * (num_given - given_per_clip(clip_frames)) + clip_frames


def given_per_clip(clip_frames: int) -> int:
    """Every second frame, from the first one."""
    return (clip_frames + 1) // 2


def sample_upsampled(
    sampler: ClipSampler,
    asked: ClipRequest,
    on_step: Callable[[int, int], None] | None = None,
) -> SampledClip:
    """All frames of the result, of which `asked` gives every second one; its shape is that of one clip.

    The noise of each clip follows from the seed and its number, the first having that of a clip alone. The PSNR is that
    of the clip that keeps its given frames least.

    Raises:
        GenerateError: as `ClipSampler.sample`.
    """
    per_clip = given_per_clip(asked.shape.num_frames)
    starts = clip_starts(len(asked.given), per_clip)
    steps = asked.sampler.num_sampling_steps
    parts: list[Tensor] = []
    kept_db: list[float] = []
    for number, start in enumerate(starts):

        def show(done: int, _: int, before: int = number * steps) -> None:
            if on_step is not None:
                on_step(before + done, len(starts) * steps)

        clip = sampler.sample(
            replace(
                asked,
                given={2 * place: asked.given[2 * (start + place)] for place in range(per_clip)},
                seed=derive_seed(asked.seed, "clip", number) if number else asked.seed,
            ),
            show,
        )
        # As far as the next clip begins, which has the shared frame as well.
        end = starts[number + 1] if number + 1 < len(starts) else None
        parts.append(clip.frames_FHWC[: None if end is None else 2 * (end - start)])
        assert clip.given_psnr_db is not None, "frames are given"
        kept_db.append(clip.given_psnr_db)
    return SampledClip(torch.cat(parts), min(kept_db))
