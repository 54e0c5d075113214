"""Curation of a folder of videos by Data-Juicer 1.6, by its operators that need no model from a hub.

    PYTHON benchmarks/peers/with_data_juicer.py --sources videos --out curated

PYTHON is that of an environment of its own (README.md). Shots are found by PySceneDetect (ContentDetector, its default)
and each is encoded by x264; clips are filtered by length and by Farneback flow, two pairs of frames a second, and exact
copies are dropped. A source with one shot it does not encode but passes on as it is. `clips.jsonl` in `--out` lists the
clips: {source, path, start_s, end_s, kept}.
"""

import argparse
import json
import os
from pathlib import Path

import av
from data_juicer.core.data import NestedDataset
from data_juicer.ops.deduplicator.video_deduplicator import VideoDeduplicator
from data_juicer.ops.filter.video_duration_filter import VideoDurationFilter
from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
from data_juicer.ops.mapper.video_split_by_scene_mapper import VideoSplitBySceneMapper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--height", type=int, default=256, help="of the encoded clips, in pixels")
    parser.add_argument("--crf", type=int, default=18)
    parser.add_argument("--gop", type=int, default=24, help="frames from key frame to key frame")
    parser.add_argument("--min-length", type=float, default=1.0, help="of a clip, in seconds")
    parser.add_argument(
        "--min-motion", type=float, default=0.003, help="mean flow, in frame diagonals a second"
    )
    parser.add_argument(
        "--long-side", type=int, default=256, help="of the frames that are measured"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    (out / "clips").mkdir(parents=True, exist_ok=True)
    # Its cache of data sets is kept in the home directory otherwise, and a second run would find the first's results.
    encoder = (
        f"-c:v libx264 -preset veryfast -crf {arguments.crf} -g {arguments.gop} -threads 1 -pix_fmt yuv420p "
        f"-vf scale=-2:{arguments.height} -an"
    )
    workers = {"num_proc": arguments.processes, "auto_op_parallelism": False}
    paths = sorted(str(path.resolve()) for path in arguments.sources.glob("*.mp4"))
    given = NestedDataset.from_list([{"text": "", "videos": [path]} for path in paths])
    split = VideoSplitBySceneMapper(
        save_dir=str(out / "clips"), ffmpeg_extra_args=encoder, **workers
    )
    # Its filters judge samples, and the operator leaves all clips of a source in one sample.
    shots = [
        {"text": "", "videos": [clip], "source": source}
        for source, sample in zip(paths, given.process([split]), strict=True)
        for clip in sample["videos"]
    ]
    filters = [
        VideoDurationFilter(min_duration=arguments.min_length, **workers),
        VideoMotionScoreFilter(
            min_score=arguments.min_motion / 2,
            sampling_fps=2.0,
            max_size=arguments.long_side,
            relative=True,
            **workers,
        ),
        VideoDeduplicator(**workers),
    ]
    kept = {sample["videos"][0] for sample in NestedDataset.from_list(shots).process(filters)}
    lines: list[str] = []
    end_s: dict[str, float] = {}
    for shot in shots:
        clip, source = shot["videos"][0], shot["source"]
        start_s = end_s.get(source, 0.0)
        end_s[source] = start_s + _duration_s(clip)
        row = {"source": Path(source).name, "path": clip, "start_s": start_s}
        lines.append(json.dumps({**row, "end_s": end_s[source], "kept": clip in kept}) + "\n")
    (out / "clips.jsonl").write_text("".join(lines))


def _duration_s(path: str) -> float:
    """Frames over rate: it tells no spans, and its clips follow one upon the other."""
    if not Path(path).exists():
        return 0.0
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        return float(stream.frames / stream.average_rate)


if __name__ == "__main__":
    main()
