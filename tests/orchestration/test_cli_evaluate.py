import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.judges import open_judges
from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.errors import EvaluationError
from training.evaluation.clips import Format, choose_clips, read_clip
from training.evaluation.results import read_result
from training.evaluation.vbench_scores import DIMENSIONS, I2V, QUALITY
from training.loop import prepare_run, train_stage
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


@pytest.mark.slow
def test_the_videos_of_vbench_and_then_its_scores(tmp_path: Path) -> None:
    dataset, run, out = (
        write_dataset(tmp_path / "squares", [12, 12]),
        tmp_path / "run",
        tmp_path / "out",
    )
    config = tiny_config(stages={"t2v": tiny_stage("t2v", num_steps=2)})
    prepare_run(config, [dataset], run)
    train_stage(config, "t2v", [dataset], run)
    prompts = tmp_path / "list.json"
    prompts.write_text(json.dumps([{"prompt_en": "a red cup", "dimension": ["color"]}]))
    words = ["evaluate", "--suite", "vbench", "--run", run, "--out", out, "--prompts", prompts]
    first = CliRunner().invoke(app, [str(word) for word in words])
    assert first.exit_code == 0, first.output
    assert {p.name for p in (out / "videos").glob("*.mp4")} == {
        f"a red cup-{i}.mp4" for i in range(5)
    }
    contents = {p.read_bytes() for p in (out / "videos").glob("*.mp4")}
    assert len(contents) == 5  # each video has noise of its own

    (out / "vbench").mkdir()
    results = {name: [1.0 if name in QUALITY else 0.0, []] for name in DIMENSIONS}
    results |= {"appearance_style": [0.0009, []], "motion_smoothness": [0.9975, []]}
    (out / "vbench" / "all_eval_results.json").write_text(json.dumps(results))
    second = CliRunner().invoke(app, [str(word) for word in words])
    assert "quality 100.0, semantic 0.0, total 80.0" in second.output


@pytest.mark.slow
def test_suites_of_images_and_from_images(tmp_path: Path) -> None:
    dataset, run = write_dataset(tmp_path / "squares", [12, 12]), tmp_path / "run"
    config = tiny_config(stages={t: tiny_stage(t, num_steps=2) for t in ("t2i", "t2v", "stiv")})
    prepare_run(config, [dataset], run)
    for stage in config.stages:
        train_stage(config, stage, [dataset], run)
    images, i2v = tmp_path / "1-1", tmp_path / "i2v.json"
    images.mkdir()
    Image.new("RGB", (48, 32), "red").save(images / "lake.png")
    line = {"prompt_en": "a lake", "image_name": "lake.png", "dimension": ["i2v_subject"]}
    i2v.write_text(json.dumps([line]))

    def evaluate(suite: str, *words: str | Path) -> str:
        given = ["evaluate", "--suite", suite, "--run", run, "--out", tmp_path / suite, *words]
        return CliRunner().invoke(app, [str(word) for word in given]).output

    assert "i2v_subject, i2v_background" in evaluate(
        "vbench_i2v", "--prompts", i2v, "--images", images
    )
    assert len(list((tmp_path / "vbench_i2v" / "videos").glob("a lake-?.mp4"))) == 5
    (tmp_path / "vbench_i2v" / "vbench").mkdir()
    results = {name: [1.0, []] for name in (*I2V, *QUALITY)}
    (tmp_path / "vbench_i2v" / "vbench" / "all_eval_results.json").write_text(json.dumps(results))
    assert "total" in evaluate("vbench_i2v", "--prompts", i2v, "--images", images)
    assert "needs --images" in evaluate("vbench_i2v", "--prompts", i2v)

    table = tmp_path / "dsg.csv"
    table.write_text("item_id,text\na0,a red cup\n")
    assert "1 images" in evaluate("dsg", "--prompts", table)
    with Image.open(tmp_path / "dsg" / "images" / "a0.png") as made:
        assert made.size == (384, 256)  # enlarged: smaller ones are no use to look at
    assert "needs --prompts" in evaluate("geneval")


def test_a_protocol_says_what_it_needs(tmp_path: Path) -> None:
    words = ["evaluate", "--suite", "gso", "--run", str(tmp_path), "--dataset", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, EvaluationError)
    assert "--lpips FILE" in str(result.exception)
