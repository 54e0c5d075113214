"""Curation of a folder of videos by NVIDIA NeMo Curator 1.4 on its Ray Data executor, without a GPU.

    PYTHON benchmarks/peers/with_nemo_curator.py --sources videos --out curated

PYTHON is that of an environment of its own (README.md). Clips are cut at a fixed stride, because its detector of shots
(TransNetV2) needs weights from a hub and a GPU; encoded by x264, which it leaves out for its licence and a subclass puts
back; filtered by motion vectors with its own thresholds; and written as files. `clips.jsonl` in `--out` lists the clips:
{source, path, start_s, end_s, kept}.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import ray
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.video.clipping.clip_extraction_stages import (
    ClipTranscodingStage,
    FixedStrideExtractorStage,
)
from nemo_curator.stages.video.filtering.motion_filter import (
    MotionFilterStage,
    MotionVectorDecodeStage,
)
from nemo_curator.stages.video.io.clip_writer import ClipWriterStage
from nemo_curator.stages.video.io.video_reader import VideoReader


@dataclass
class X264Stage(ClipTranscodingStage):
    """Its transcoding with another encoder. The methods are those that it calls for each clip."""

    encoder: str = "libx264"
    height_px: int = 256
    crf: int = 18
    gop: int = 24

    def setup(self, worker_metadata=None) -> None:
        """No check: it would refuse x264."""

    def _add_video_encoding_options(self, command, use_bit_rate, force_pix_fmt) -> None:
        command += ["-preset", "veryfast", "-crf", str(self.crf), "-g", str(self.gop)]
        command += ["-pix_fmt", "yuv420p", "-vf", f"scale=-2:{self.height_px}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--height", type=int, default=256, help="of the encoded clips, in pixels")
    parser.add_argument("--crf", type=int, default=18)
    parser.add_argument("--gop", type=int, default=24, help="frames from key frame to key frame")
    parser.add_argument("--stride", type=float, default=4.0, help="length of a clip, in seconds")
    parser.add_argument("--min-length", type=float, default=1.0, help="of a clip, in seconds")
    parser.add_argument("--cpus", type=int, default=max(8, os.cpu_count() or 1), help="told to Ray")
    arguments = parser.parse_args()
    sources, out = str(arguments.sources.resolve()), arguments.out.resolve()
    # Two CPUs are fewer than the stages that stay alive side by side ask for, and it waits for ever.
    ray.init(address="local", num_cpus=arguments.cpus, include_dashboard=False)
    stages = [
        VideoReader(input_video_path=sources),
        FixedStrideExtractorStage(
            clip_len_s=arguments.stride,
            clip_stride_s=arguments.stride,
            min_clip_length_s=arguments.min_length,
            limit_clips=0,
        ),
        X264Stage(height_px=arguments.height, crf=arguments.crf, gop=arguments.gop),
        MotionVectorDecodeStage(num_cpus_per_worker=1.0),
        MotionFilterStage(),
        ClipWriterStage(
            output_path=str(out),
            input_path=sources,
            upload_clips=True,
            dry_run=False,
            generate_embeddings=False,
            generate_previews=False,
            generate_captions=False,
        ),
    ]
    Pipeline(name="curate", stages=stages).run(RayDataExecutor())
    lines = [
        json.dumps(_row(path)) + "\n" for path in sorted((out / "metas" / "v0").glob("*.json"))
    ]
    (out / "clips.jsonl").write_text("".join(lines))


def _row(path: Path) -> dict[str, object]:
    meta = json.loads(path.read_text())
    start_s, end_s = meta["duration_span"]
    return {
        "source": Path(meta["source_video"]).name,
        "path": meta["clip_location"],
        "start_s": start_s,
        "end_s": end_s,
        "kept": Path(meta["clip_location"]).parent.name == "clips",
    }


if __name__ == "__main__":
    main()
