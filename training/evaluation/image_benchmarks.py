"""The scores of GenEval and DSG, from what the code of their authors writes about images."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from training.errors import EvaluationError

GENEVAL_RESULTS = "geneval/results.jsonl"
DSG_ANSWERS = "dsg/answers.csv"
OVERALL = "overall"


def geneval_scores(path: Path, images: Sequence[str]) -> dict[str, float]:
    """From the lines of `evaluate_images.py`: the share of correct images of each tag, and `overall`, the mean of these.

    `images` are those that were made, `NNNNN/samples/NNNN.png`.

    Raises:
        EvaluationError: the file is no such list, or does not judge just these images.
    """
    judged: dict[str, bool] = {}
    by_tag: dict[str, list[bool]] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            entry: dict[str, Any] = json.loads(line)
            name, tag = str(entry["filename"]), str(entry["tag"])
            correct = entry["correct"]
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"line {number} of {path} is none of GenEval ({error}); it must have filename, tag and correct"
            ) from error
        if not isinstance(correct, bool):
            raise EvaluationError(
                f"line {number} of {path}: correct is {correct!r}, not true or false"
            )
        judged["/".join(PurePosixPath(name).parts[-3:])] = correct
        by_tag.setdefault(tag, []).append(correct)
    num_lines = sum(map(len, by_tag.values()))
    if set(judged) != set(images) or num_lines != len(images):
        missing = sorted(set(images) - set(judged))
        raise EvaluationError(
            f"{path} has {num_lines} lines on {len(judged)} images, {len(images)} were made"
            f"{f', such as {missing[0]}' if missing else ''}; judge all of them once"
        )
    tags = {tag: float(np.mean(of)) for tag, of in by_tag.items()}
    return {**tags, OVERALL: float(np.mean(list(tags.values())))}


def dsg_scores(answers: Path, questions: Path) -> dict[str, float]:
    """From answers in the layout of `vqa_answers_release`: the score of each category of prompts, and `overall`.

    A question counts if it is answered `yes` and so are those that it depends on; an image has the mean over its questions,
    and the score is the mean over images. `questions` is the table of prompts, `dsg-1k-anns.csv`.

    Raises:
        EvaluationError: a file is no such table, or a question has no answer.
    """
    asked = _questions(questions)
    given: dict[tuple[str, int], bool] = {}
    for row in _rows(answers, {"item_id", "question_id", "answer"}):
        key = (row["item_id"], _number(row["question_id"], answers))
        given[key] = row["answer"] == "yes"
    missing = [(item, q) for item, of in asked.items() for q in of if (item, q) not in given]
    if missing:
        raise EvaluationError(
            f"{answers} lacks {len(missing)} answers, such as that to question {missing[0][1]} of {missing[0][0]}; no score is "
            "made of a part"
        )
    scores = {item: _score_of(item, of, given) for item, of in asked.items()}
    by_category: dict[str, list[float]] = {}
    for item, score in scores.items():
        by_category.setdefault(item.rpartition("_")[0] or item, []).append(score)
    means = {category: float(np.mean(of)) for category, of in by_category.items()}
    return {**means, OVERALL: float(np.mean(list(scores.values())))}


def _score_of(
    item: str, questions: Mapping[int, Sequence[int]], given: Mapping[tuple[str, int], bool]
) -> float:
    if not questions:
        return 0.0
    counts = [
        given[item, question] and all(given.get((item, parent), False) for parent in parents)
        for question, parents in questions.items()
    ]
    return float(np.mean(counts))


def _questions(path: Path) -> dict[str, dict[int, tuple[int, ...]]]:
    """Of each item its questions, and those that each depends on."""
    asked: dict[str, dict[int, tuple[int, ...]]] = {}
    for row in _rows(path, {"item_id", "proposition_id", "dependency"}):
        of = asked.setdefault(row["item_id"], {})
        if not row["proposition_id"]:
            continue
        parents = [part.strip() for part in row["dependency"].split(",")]
        numbers = [_number(part, path) for part in parents if part not in ("", "-")]
        # 0 depends on nothing.
        of[_number(row["proposition_id"], path)] = tuple(n for n in numbers if n)
    return asked


def _rows(path: Path, columns: set[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(_lines(path)))
    if not rows or not columns <= rows[0].keys():
        raise EvaluationError(f"{path} is no table of DSG; it must have columns {sorted(columns)}")
    return rows


def _number(text: str, path: Path) -> int:
    try:
        return int(text)
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"{path}: {text!r} is no number of a question") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error})") from error
