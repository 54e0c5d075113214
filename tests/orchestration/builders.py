"""A film that passes the filters of the demo recipe, and one run of assets in this process."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import dagster as dg
import numpy as np

from orchestration.configuration import engine
from orchestration.partitions import source_batches
from orchestration.resources import RayResource, Workspace
from tests.videos import Image, write_video

BATCH = "film"
FPS = 24
SHOT_S = 2
HEIGHT_PX, WIDTH_PX = 180, 320


FEW_STEPS: dict[str, Any] = {
    "num_workers": 1,
    "peak_tflops": 1,
    "data": {"height_px": 32, "width_px": 48},
    "sampler": {"num_sampling_steps": 2},
    "stages": {
        stage: {"num_steps": 4, "batch_size": 2, "checkpoint_every_steps": 4}
        for stage in ("t2i", "t2v", "stiv")
    },
}
"""Overrides of `demo_tiny` for a run of seconds."""


def write_film(home: Path) -> Path:
    """The batch of one film with three shots of two seconds: a pan, a still picture, a tilt."""
    return write_video(home / "sources" / BATCH / "film.mp4", _frames(), fps=FPS)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:.0f} s"
        time.sleep(0.5)


@contextmanager
def new_instance(folder: Path) -> Generator[dg.DagsterInstance]:
    """A Dagster that remembers in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        yield instance


def materialize(
    home: Path,
    assets: Sequence[dg.AssetsDefinition | dg.AssetChecksDefinition],
    instance: dg.DagsterInstance,
    *,
    ray: RayResource | None = None,
    more_resources: Mapping[str, Any] | None = None,
    **options: Any,
) -> dg.ExecuteInProcessResult:
    """One run; the options are those of `dagster.materialize`."""
    instance.add_dynamic_partitions(str(source_batches.name), [BATCH])
    resources = {
        "workspace": Workspace(root=str(home)),
        "ray": ray or RayResource(),
        "engine": engine,
        **(more_resources or {}),
    }
    return dg.materialize(assets, instance=instance, resources=resources, **options)


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What the last materialisation of an asset in this run shows, as plain values."""
    events = result.asset_materializations_for_node(asset)
    return {key: value.value for key, value in events[-1].metadata.items()}


def _frames() -> Iterator[Image]:
    for seed, (dy_px, dx_px) in enumerate(((0, 3), (0, 0), (2, 0))):
        place = _landscape(seed)
        for i in range(FPS * SHOT_S):
            top, left = dy_px * i, dx_px * i
            yield np.ascontiguousarray(place[top : top + HEIGHT_PX, left : left + WIDTH_PX])


def _landscape(seed: int) -> Image:
    """A picture larger than the frame, with detail at several sizes and the tint of its own shot."""
    random = np.random.default_rng(seed)
    shape = HEIGHT_PX * 2, WIDTH_PX * 2
    image = np.zeros((*shape, 3), np.float32)
    for cell_px, weight in ((64, 0.5), (16, 0.3), (4, 0.2)):
        small = random.random((shape[0] // cell_px, shape[1] // cell_px, 3), np.float32)
        image += weight * cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    tint = np.roll(np.array([1.0, 0.75, 0.45], np.float32), seed)
    return (image * tint * 255).clip(0, 255).astype(np.uint8)
