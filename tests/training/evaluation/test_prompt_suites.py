import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.builders import tiny_config, tiny_stage
from training import generate
from training.errors import EvaluationError
from training.evaluation.generation import Sampling
from training.evaluation.prompt_suites import (
    dsg_items,
    geneval_items,
    prompt_list,
    read_prompts,
    vbench_items,
)
from training.evaluation.suite_files import make_suite
from training.evaluation.vbench import read_dimensions
from training.evaluation.vbench_scores import DIMENSIONS, vbench_scores
from training.generate import OpenRun
from training.loop import prepare_run, train_stage

LINES = [
    {"prompt_en": "a red cup", "dimension": ["color"]},
    {"prompt_en": "a still lake", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a red cup", "dimension": ["object_class"]},
]


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(LINES))
    return path


def test_names_are_those_of_the_authors(prompts_file: Path) -> None:
    prompts = read_prompts(prompt_list(prompts_file))
    assert [(p.text, p.dimensions) for p in prompts] == [
        ("a red cup", ("color", "object_class")),
        ("a still lake", ("temporal_flickering",)),
    ]
    names = [item.path for item in vbench_items(prompts)]
    assert names[:5] == [f"a red cup-{index}.mp4" for index in range(5)]
    assert names[5:] == [f"a still lake-{index}.mp4" for index in range(25)]
    assert [p.text for p in read_prompts(prompts_file, ["object_class"])] == ["a red cup"]


def test_what_is_no_list_or_no_name_is_refused(prompts_file: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no prompt for scene"):
        read_prompts(prompts_file, ["scene"])
    prompts_file.write_text('["a red cup"]')
    with pytest.raises(EvaluationError, match="prompt_en"):
        read_prompts(prompts_file)
    prompts_file.write_text(json.dumps([{"prompt_en": "../a", "dimension": ["color"]}]))
    with pytest.raises(EvaluationError, match="name of a file"):
        vbench_items(read_prompts(prompts_file))


def test_prompts_of_images_need_them(tmp_path: Path) -> None:
    path, images = tmp_path / "i2v.json", tmp_path / "1-1"
    line = {"prompt_en": "a lake", "image_name": "lake.jpg", "dimension": ["i2v_background"]}
    moving = {**line, "prompt_en": "a lake, camera pans left", "dimension": ["camera_motion"]}
    path.write_text(json.dumps([line, moving, {**line, "dimension": ["temporal_flickering"]}]))
    prompts = read_prompts(path)
    assert [(p.text, p.image, p.num_videos) for p in prompts] == [
        ("a lake", "lake.jpg", 5),
        ("a lake, camera pans left", "lake.jpg", 5),
    ]
    with pytest.raises(EvaluationError, match="belongs to an image"):
        vbench_items(prompts)
    with pytest.raises(EvaluationError, match=r"lake\.jpg is missing"):
        vbench_items(prompts, images)
    images.mkdir()
    (images / "lake.jpg").touch()
    items = vbench_items(prompts, images)
    assert len(items) == 10
    assert {(item.given.task, item.given.image) for item in items} == {
        ("ti2v", images / "lake.jpg")
    }
    path.write_text(json.dumps(LINES))
    with pytest.raises(EvaluationError, match="names no image"):
        vbench_items(read_prompts(path), images)


def test_geneval_finds_its_lines_beside_four_images_each(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    lines = [
        '{"tag": "counting", "prompt": "two clocks"}',
        '{"tag": "colors", "prompt": "a red cup"}',
    ]
    path.write_text("\n".join(lines))
    items = geneval_items(path, tmp_path / "images")
    assert [item.path for item in items[3:5]] == [
        "00000/samples/0003.png",
        "00001/samples/0000.png",
    ]
    assert {(item.prompt, item.seed_name) for item in items} == {
        ("two clocks", "00000"),
        ("a red cup", "00001"),
    }
    assert (tmp_path / "images" / "00001" / "metadata.jsonl").read_text().strip() == lines[1]
    path.write_text('{"tag": "counting"}')
    with pytest.raises(EvaluationError, match=r"line 1 of .* `prompt`"):
        geneval_items(path, tmp_path)


def test_dsg_has_one_image_for_all_questions_of_an_item(tmp_path: Path) -> None:
    path = tmp_path / "dsg.csv"
    path.write_text('item_id,text,question\nmidjourney_0,"a cup, red",is there a cup?\n')
    with path.open("a") as file:
        file.write('midjourney_0,"a cup, red",is it red?\n')
    (item,) = dsg_items(path)
    assert (item.path, item.prompt, item.given.task) == ("midjourney_0.png", "a cup, red", "t2i")
    path.write_text("item_id,text\n../x,a cup\n")
    with pytest.raises(EvaluationError, match="cannot be the name"):
        dsg_items(path)
    path.write_text("id,text\n1,a cup\n")
    with pytest.raises(EvaluationError, match="item_id and text"):
        dsg_items(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        dsg_items(tmp_path / "nowhere.csv")


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes images and videos."""
    run = tmp_path_factory.mktemp("suites") / "run"
    config = tiny_config(stages={task: tiny_stage(task, num_steps=2) for task in ("t2i", "t2v")})
    prepare_run(config, [dataset], run)
    for stage in config.stages:
        train_stage(config, stage, [dataset], run)
    return run


@pytest.mark.slow
def test_images_are_made_where_they_are_looked_for(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text('{"prompt": "two clocks"}\n{"prompt": "two clocks"}\n')
    items = geneval_items(path, tmp_path / "images")
    made = make_suite(OpenRun(run), items, tmp_path, "images", Sampling(num_sampling_steps=2))
    assert made.num_sampling_steps == 2
    images = [tmp_path / "images" / item.path for item in items]
    assert len({image.read_bytes() for image in images}) == 8, "each has a noise of its own"
    found = {path for path in (tmp_path / "images").rglob("*") if path.is_file()}
    lines = {tmp_path / "images" / name / "metadata.jsonl" for name in ("00000", "00001")}
    assert found == {*images, *lines}


@pytest.mark.slow
def test_a_folder_of_videos_holds_nothing_else(
    run: Path, prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VBench takes the ending of the first file that the file system lists for that of all."""
    loads: list[str] = []
    monkeypatch.setattr(generate, "load_encoders", counted(generate.load_encoders, loads))
    monkeypatch.setattr(generate, "ClipSampler", counted(generate.ClipSampler, loads))
    items = vbench_items(read_prompts(prompts_file, ["color"]))
    sampling = Sampling(num_sampling_steps=1)
    make_suite(OpenRun(run), items, tmp_path, "videos", sampling)
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {i.path for i in items}
    assert loads == ["load_encoders", "ClipSampler"], "once for five videos"
    assert (tmp_path / "made" / "a red cup-0.settings.json").exists()
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "videos").iterdir())]
    make_suite(OpenRun(run), items, tmp_path, "videos", sampling)
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "videos").iterdir())] == times
    assert len(loads) == 2, "nothing is loaded where nothing is made"
    other = replace(sampling, seed=1)
    make_suite(OpenRun(run), items, tmp_path, "videos", other)
    remade = tmp_path / "videos" / items[0].path
    assert remade.read_bytes() == (tmp_path / "made" / items[0].path).read_bytes()
    (tmp_path / "videos" / "a red cup-0.frames.png").touch()
    with pytest.raises(EvaluationError, match=r"frames\.png lies among the files"):
        make_suite(OpenRun(run), items, tmp_path, "videos", sampling)


def counted(load: Callable[..., Any], loads: list[str]) -> Callable[..., Any]:
    def loading(*arguments: Any) -> Any:
        loads.append(load.__name__)
        return load(*arguments)

    return loading


def test_dimensions_of_several_files_make_one_score(tmp_path: Path) -> None:
    half = len(DIMENSIONS) // 2
    for name, part in (("a", DIMENSIONS[:half]), ("b", DIMENSIONS[half:])):
        content = {dimension: [0.8, [{"video_path": "x.mp4"}]] for dimension in part}
        (tmp_path / f"{name}_eval_results.json").write_text(json.dumps(content))
    found = read_dimensions(tmp_path)
    assert found == dict.fromkeys(DIMENSIONS, 0.8)
    assert vbench_scores(found).quality < 0.8
    (tmp_path / "c_eval_results.json").write_text(json.dumps({"color": [0.7, []]}))
    with pytest.raises(EvaluationError, match="differ in color"):
        read_dimensions(tmp_path)
    (tmp_path / "c_eval_results.json").write_text("[]")
    with pytest.raises(EvaluationError, match="no result of VBench"):
        read_dimensions(tmp_path)
