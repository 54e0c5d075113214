"""Prompts of others as videos or images to make, under the names by which the code of their authors finds them.

Their lists and networks are their own; nothing of them is here. Each list is a file that the user gives, or that the package
`vbench` holds.
"""

import csv
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.errors import EvaluationError
from training.evaluation.generation import Given
from training.evaluation.vbench import FLICKER, LIST_NAME
from training.streaming.storage import write_whole

NUM_VIDEOS = 5
NUM_FLICKER_VIDEOS = 25
"""Of the prompts of temporal flickering: the authors leave out videos that move, and need enough still ones."""
NUM_GENEVAL_IMAGES = 4
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class SuitePrompt:
    """One line of a list of VBench, and the dimensions that are judged by it."""

    text: str
    dimensions: tuple[str, ...]
    image: str | None = None
    """The name of the given image, in VBench-I2V."""

    @property
    def num_videos(self) -> int:
        # Those of VBench-I2V are made from images, five of each.
        return NUM_FLICKER_VIDEOS if FLICKER in self.dimensions and not self.image else NUM_VIDEOS


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteItem:
    """One video or image to make."""

    prompt: str
    path: str
    """Below the folder of the suite, by which its authors' code finds it."""
    given: Given = field(default_factory=Given)
    seed_name: str = ""
    """What its noise follows from besides the name of the file."""


def prompt_list(given: Path | None) -> Path:
    """The list of prompts: the file given, or that of the package.

    Raises:
        EvaluationError: there is neither.
    """
    if given is not None:
        return given
    spec = importlib.util.find_spec("vbench")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / LIST_NAME
    raise EvaluationError(
        f"the prompts of VBench are not here: install the package vbench, or give --prompts {LIST_NAME} "
        "from the authors' repository"
    )


def read_prompts(path: Path, dimensions: Sequence[str] = ()) -> list[SuitePrompt]:
    """The prompts in their order, each with its image once; with `dimensions`, those that one of them needs.

    Raises:
        EvaluationError: the file is no such list, or no prompt is left.
    """
    try:
        lines = json.loads(path.read_bytes())
        found = [
            ((str(line["prompt_en"]), line.get("image_name")), tuple(map(str, line["dimension"])))
            for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is not the list of VBench ({error}); each entry must have prompt_en and dimension"
        ) from error
    judged: dict[tuple[str, str | None], tuple[str, ...]] = {}
    for key, of in found:
        judged[key] = (*judged.get(key, ()), *of)
    wanted = set(dimensions)
    prompts = [
        SuitePrompt(text=text, dimensions=of, image=image)
        for (text, image), of in judged.items()
        if not wanted or wanted & set(of)
    ]
    if not prompts:
        raise EvaluationError(f"{path} holds no prompt for {', '.join(dimensions) or 'anything'}")
    return prompts


def vbench_items(prompts: Sequence[SuitePrompt], images: Path | None = None) -> list[SuiteItem]:
    """Every video of VBench, `PROMPT-INDEX.mp4`, or of VBench-I2V, from the folder of its images.

    Raises:
        EvaluationError: a prompt cannot be the name of a file, or an image is missing.
    """
    items = [
        SuiteItem(
            prompt=prompt.text,
            path=f"{prompt.text}-{index}.mp4",
            given=_of_image(prompt, images),
        )
        for prompt in prompts
        for index in range(prompt.num_videos)
    ]
    bad = [i.path for i in items if "/" in i.path or len(i.path.encode()) > _MAX_NAME_BYTES]
    if bad:
        raise EvaluationError(f"the prompt of {bad[0]!r} cannot be the name of a file; shorten it")
    return items


def _of_image(prompt: SuitePrompt, images: Path | None) -> Given:
    if prompt.image is None:
        if images is not None:
            raise EvaluationError(
                f"prompt {prompt.text!r} names no image; VBench-I2V needs its own list, vbench2_i2v_full_info.json"
            )
        return Given()
    if images is None:
        raise EvaluationError(
            f"prompt {prompt.text!r} belongs to an image; use the suite vbench_i2v and give --images, such as the folder crop/1-1"
        )
    image = images / Path(prompt.image).name
    if not image.is_file():
        raise EvaluationError(
            f"image {image} is missing; --images names the folder of one aspect ratio"
        )
    return Given(task="ti2v", image=image)


def geneval_items(path: Path, folder: Path) -> list[SuiteItem]:
    """Four images for each line of `evaluation_metadata.jsonl`, `NNNNN/samples/NNNN.png`, beside a copy of the line.

    Raises:
        EvaluationError: the file is no such list.
    """
    items: list[SuiteItem] = []
    for number, line in enumerate(_lines(path)):
        try:
            prompt = str(json.loads(line)["prompt"])
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"line {number + 1} of {path} is none of GenEval ({error}); each must be an object with `prompt`"
            ) from error
        name = f"{number:05d}"
        write_whole(folder / name / "metadata.jsonl", f"{line}\n".encode())
        items += [
            SuiteItem(
                prompt=prompt,
                path=f"{name}/samples/{index:04d}.png",
                given=Given(task="t2i"),
                seed_name=name,
            )
            for index in range(NUM_GENEVAL_IMAGES)
        ]
    return items


def dsg_items(path: Path) -> list[SuiteItem]:
    """One image for each `item_id` of a table of DSG, such as `dsg-1k-anns.csv`, whose lines are its questions.

    Raises:
        EvaluationError: the file is no such table.
    """
    rows = list(csv.DictReader(_lines(path)))
    if not rows or not {"item_id", "text"} <= rows[0].keys():
        raise EvaluationError(f"{path} is no table of DSG; it must have columns item_id and text")
    texts = {row["item_id"]: row["text"] for row in rows}
    bad = [name for name in texts if not name or "/" in name or name.startswith(".")]
    if bad:
        raise EvaluationError(f"item_id {bad[0]!r} of {path} cannot be the name of a file")
    return [
        SuiteItem(prompt=text, path=f"{name}.png", given=Given(task="t2i"))
        for name, text in texts.items()
    ]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"the prompts {path} cannot be read ({error})") from error
