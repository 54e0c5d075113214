from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.judges import open_judges
from tests.training.builders import write_dataset
from training.errors import EvaluationError
from training.evaluation.clips import Format, choose_clips, read_clip
from training.evaluation.results import read_result
from training.streaming.index import SampleIndex
from training.streaming.storage import RangeReader
from training.video_file import enlarge, write_video

FORMAT = Format(num_frames=4, stride=2, height_px=32, width_px=48)


def test_a_folder_of_videos_is_judged_by_the_embedded_networks(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "squares", [12, 12, 12])
    videos = tmp_path / "videos"
    videos.mkdir()
    for clip in choose_clips(SampleIndex.open([dataset]), 3, FORMAT, 0):
        frames = enlarge(read_clip(RangeReader(), clip, FORMAT))
        write_video(frames, videos / f"{clip.clip_id}.mp4", 12.0)
    words = ["evaluate", "--videos", videos, "--dataset", dataset, "--out", tmp_path / "out"]
    size = ["--num-frames", 4, "--stride", 2, "--height", 32, "--width", 48]
    result = CliRunner().invoke(app, [str(w) for w in [*words, *size, "--num-samples", 3]])
    assert result.exit_code == 0, result.output
    metrics = {metric.name: metric for metric in read_result(tmp_path / "out").metrics}
    # Embedded features never give a number the name of the published ones.
    assert set(metrics) == {"embedded_frechet_video", "conse_similarity"}
    assert "efficientnet-lite0" in metrics["embedded_frechet_video"].backend


def test_unknown_features_are_refused() -> None:
    with pytest.raises(EvaluationError, match="i3d:FILE"):
        open_judges(["fvd"], None)
    with pytest.raises(EvaluationError, match="MODEL/WEIGHTS"):
        open_judges(["embedded"], "ViT-L-14")
