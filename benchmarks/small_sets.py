"""Small sets for the two applications that the sample videos do not serve: views of objects, and videos of classes.

    pip install pybullet
    python -m benchmarks.small_sets views --out sets/views.tar --num-objects 300
    python -m benchmarks.small_sets classes --dataset datasets/samples --out sets/classes.tar

Views are rendered from the 1000 meshes `random_urdfs` that ship in the package pybullet, under the cameras of the paper. The class
of a video is its category, as the data engine found it.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import webdataset as wds

from training.camera_grid import CAMERAS
from training.streaming.decode import FramesFHWC
from training.video_file import write_lossless_video

SIDE_PX = 160
GIVEN_ELEVATION_DEG = 10
DISTANCE_SIZES = 1.6
"""From the camera to the object, in diagonals of its bounding box."""


def write_views(out: Path, num_objects: int) -> None:
    """A sample is seven frames: the given view, then those of `CAMERAS`; white around an object of one colour."""
    import pybullet
    import pybullet_data

    pybullet.connect(pybullet.DIRECT)
    meshes = sorted(Path(pybullet_data.getDataPath(), "random_urdfs").glob("*/*.urdf"))
    with wds.TarWriter(str(out)) as tar:
        for mesh in meshes[:num_objects]:
            frames = _seven_views(pybullet, mesh)
            file = io.BytesIO()
            write_lossless_video(frames, file, 24.0)
            sample = {"__key__": mesh.stem, "mp4": file.getvalue(), "txt": "an object"}
            tar.write(sample)


def _seven_views(pybullet, mesh: Path) -> FramesFHWC:
    random = np.random.default_rng(int(mesh.stem))
    pybullet.resetSimulation()
    body = pybullet.loadURDF(str(mesh))
    pybullet.changeVisualShape(body, -1, rgbaColor=[*random.uniform(0.15, 0.95, 3), 1.0])
    low, high = (np.array(corner) for corner in pybullet.getAABB(body))
    given_deg = random.uniform(0, 360)
    views = [(GIVEN_ELEVATION_DEG, given_deg)]
    views += [(camera.elevation_deg, given_deg + camera.azimuth_deg) for camera in CAMERAS]
    size = float(np.linalg.norm(high - low))
    lens = pybullet.computeProjectionMatrixFOV(40, 1.0, 0.01 * size, 10 * size)
    frames = []
    for elevation_deg, azimuth_deg in views:
        eye = pybullet.computeViewMatrixFromYawPitchRoll(
            list((low + high) / 2), DISTANCE_SIZES * size, azimuth_deg, -elevation_deg, 0, 2
        )
        _, _, pixels, _, masks = pybullet.getCameraImage(
            SIDE_PX,
            SIDE_PX,
            eye,
            lens,
            lightDirection=[1, 1, 2],
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
        )
        rgb = np.reshape(np.asarray(pixels, np.uint8), (SIDE_PX, SIDE_PX, 4))[..., :3].copy()
        rgb[np.reshape(np.asarray(masks), (SIDE_PX, SIDE_PX)) != body] = 255
        frames.append(rgb)
    return np.stack(frames)


def write_classes(dataset: Path, out: Path) -> None:
    """The same videos, whose captions are the names of their categories."""
    with wds.TarWriter(str(out)) as tar:
        shards = [str(shard) for shard in sorted(dataset.rglob("*.tar"))]
        for clip in wds.WebDataset(shards, shardshuffle=False):
            label = json.loads(clip["json"])["category"]["name"]
            tar.write({"__key__": clip["__key__"], "mp4": clip["mp4"], "txt": label})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["views", "classes"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-objects", type=int, default=300)
    parser.add_argument("--dataset", type=Path)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.kind == "views":
        write_views(arguments.out, arguments.num_objects)
    elif arguments.dataset is None:
        parser.error("classes needs --dataset")
    else:
        write_classes(arguments.dataset, arguments.out)


if __name__ == "__main__":
    main()
