import json
from pathlib import Path

import pytest

from training.errors import EvaluationError
from training.evaluation.vbench_scores import DIMENSIONS, vbench_scores
from training.evaluation.vbench_suite import (
    prompt_list,
    read_dimensions,
    read_prompts,
    videos_of,
)

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
    names = [video.name for video in videos_of(prompts)]
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
        videos_of(read_prompts(prompts_file))


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
