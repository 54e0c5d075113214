"""What is read from the clips, how it is mixed, and how it is read ahead."""

import math
from typing import Self

from pydantic import Field, model_validator

from modeling.settings import LATENT_DOWNSAMPLING, FrozenModel


def check_sides(field: str, sizes_px: tuple[tuple[int, int], ...]) -> None:
    """Raises:
    ValueError: a side is no multiple of what a latent position covers.
    """
    for size_px in sizes_px:
        if any(side <= 0 or side % LATENT_DOWNSAMPLING for side in size_px):
            raise ValueError(
                f"{field} names {size_px}; sides are multiples of {LATENT_DOWNSAMPLING} px"
            )


class DataConfig(FrozenModel):
    """What is read from the clips. Sizes are those of the training frames."""

    height_px: int = Field(gt=0, multiple_of=LATENT_DOWNSAMPLING)
    width_px: int = Field(gt=0, multiple_of=LATENT_DOWNSAMPLING)
    more_sizes_px: tuple[tuple[int, int], ...] = ()
    """Further sizes (height, width): a clip is trained at the one whose aspect ratio is nearest to its own."""
    dataset_weights: tuple[float, ...] = ()
    """How often each `--dataset` is drawn against the others, in their order, among videos and among single frames; as
    often as it has samples, if empty."""
    sampling_stride: int = Field(default=3, ge=1)
    """Every n-th frame is taken; 3 in STIV, appendix B. Short clips take a smaller stride."""
    caption_weights: dict[str, float] = Field(default_factory=dict)
    """How often a clip with several captions shows each, by source: `original`, `template`, `vlm`, ..., and `main` for the
    first caption where its source is not named. Captions of one source share its weight; a clip whose captions have none
    shows the first, as all do if this is empty. STIV mixes original and synthetic ones for images and prints no ratio
    (section 3.2); DiT-Air takes {original: 0.1, main: 0.9}."""
    random_crop: bool = False
    """Cut the training frame out of the resized one anywhere, not at the centre. Not for latents."""
    flip_prob: float = Field(default=0.0, ge=0, le=1)
    """How often left and right are exchanged. Captions that name them become wrong. Not for latents."""
    max_skipped_share: float = Field(default=0.01, ge=0, le=1)
    """Samples that cannot be read are replaced and counted; above this share of them the run stops."""
    loader_workers: int = Field(default=0, ge=0)
    """Processes that read ahead for each worker; with 0 it reads between its steps."""
    prefetch_batches: int = Field(default=2, ge=1)
    """That each of these processes reads ahead."""
    timeout_s: float = Field(default=300.0, gt=0)
    """A batch that takes longer is given up, and the loader processes are started again."""
    max_loader_restarts: int = Field(default=3, ge=0)
    cache_bytes: int = Field(default=2 * 2**30, ge=0)
    """Decoded frames at training size kept in the run directory; clips beyond it are decoded on
    every read."""

    @model_validator(mode="after")
    def _sizes_and_weights(self) -> Self:
        if any(weight <= 0 for weight in self.dataset_weights):
            raise ValueError(f"dataset_weights {self.dataset_weights} must be above 0")
        if any(not 0 <= weight < math.inf for weight in self.caption_weights.values()):
            raise ValueError(f"caption_weights {self.caption_weights} must be numbers from 0 on")
        check_sides("more_sizes_px", self.more_sizes_px)
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"the sizes {self.sizes} name one twice")
        return self

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (height, width) that is trained at, the main one first."""
        return ((self.height_px, self.width_px), *self.more_sizes_px)
