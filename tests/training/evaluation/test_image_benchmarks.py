"""Scores from small files in the layout of those that the authors' code writes."""

import json
from pathlib import Path

import pytest

from training.errors import EvaluationError
from training.evaluation.image_benchmarks import dsg_scores, geneval_scores

IMAGES = [f"0000{n}/samples/000{i}.png" for n in range(3) for i in range(2)]


def geneval_line(image: str, tag: str, correct: bool) -> str:
    """As `evaluate_images.py` writes one."""
    line = {
        "filename": f"somewhere/images/{image}",
        "tag": tag,
        "prompt": "a photo of two clocks",
        "correct": correct,
        "reason": "",
        "metadata": json.dumps({"tag": tag}),
        "details": "{}",
    }
    return json.dumps(line)


def test_geneval_is_the_mean_over_tags(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    tags = ["counting", "counting", "counting", "counting", "colors", "colors"]
    right = [True, False, False, False, True, True]
    lines = [geneval_line(*found) for found in zip(IMAGES, tags, right, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    expected = {"counting": 0.25, "colors": 1.0, "overall": 0.625}
    assert geneval_scores(path, IMAGES) == expected
    for wrong in (lines[:-1], [*lines, lines[0]], [*lines[:-1], lines[0]]):
        path.write_text("\n".join(wrong))
        with pytest.raises(EvaluationError, match="judge all of them once"):
            geneval_scores(path, IMAGES)
    path.write_text('{"tag": "counting"}')
    with pytest.raises(EvaluationError, match=r"line 1 of .* none of GenEval"):
        geneval_scores(path, IMAGES)
    path.write_text('{"filename": "x", "tag": "counting", "correct": "yes"}')
    with pytest.raises(EvaluationError, match="not true or false"):
        geneval_scores(path, IMAGES)


QUESTIONS = """item_id,text,proposition_id,dependency,question_natural_language
whoops_1,a red cup,1,0,Is there a cup?
whoops_1,a red cup,2,1,Is it red?
whoops_1,a red cup,3,"1,2",Is the red cup there?
whoops_2,a lake,1,0,Is there a lake?
vrd_1,a bench near trees,1,0,Is there a bench?
vrd_1,a bench near trees,2,1,Is it near trees?
"""
ANSWERS = """dsg_prompt_split,qg_model,t2i_model,item_id,question,question_id,dependency_id,answer
whoops,dsg,mine,whoops_1,Is there a cup?,1,0,yes
whoops,dsg,mine,whoops_1,Is it red?,2,1,no
whoops,dsg,mine,whoops_1,Is the red cup there?,3,"1,2",yes
whoops,dsg,mine,whoops_2,Is there a lake?,1,0,yes
vrd,dsg,mine,vrd_1,Is there a bench?,1,0,no
vrd,dsg,mine,vrd_1,Is it near trees?,2,1,yes
"""


def test_dsg_counts_no_answer_whose_premise_is_denied(tmp_path: Path) -> None:
    questions, answers = tmp_path / "dsg-1k-anns.csv", tmp_path / "answers.csv"
    questions.write_text(QUESTIONS)
    answers.write_text(ANSWERS)
    # A third of the first image, all of the second, nothing of the third.
    found = dsg_scores(answers, questions)
    assert found == pytest.approx({"whoops": 2 / 3, "vrd": 0.0, "overall": 4 / 9})
    answers.write_text(ANSWERS.rpartition("vrd,")[0])
    with pytest.raises(
        EvaluationError, match="lacks 1 answers, such as that to question 2 of vrd_1"
    ):
        dsg_scores(answers, questions)
    answers.write_text("item_id,answer\nvrd_1,yes\n")
    with pytest.raises(EvaluationError, match="must have columns"):
        dsg_scores(answers, questions)
    with pytest.raises(EvaluationError, match="cannot be read"):
        dsg_scores(tmp_path / "nowhere.csv", questions)
