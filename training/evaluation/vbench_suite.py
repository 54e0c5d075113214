"""The prompts of VBench as videos in the layout of its authors, and the dimensions that their package finds.

Their list `VBench_full_info.json` and their networks belong to the package `vbench`; nothing of them is here.
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import EvaluationError
from training.evaluation.generation import Sampling, make_video

LIST_NAME = "VBench_full_info.json"
RESULTS_PATTERN = "*_eval_results.json"
NUM_VIDEOS = 5
NUM_FLICKER_VIDEOS = 25
"""Of the prompts of temporal flickering: the authors leave out videos that move, and need enough still ones."""
_FLICKER = "temporal_flickering"
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class SuitePrompt:
    """One line of the list, and the dimensions that are judged by it."""

    text: str
    dimensions: tuple[str, ...]

    @property
    def num_videos(self) -> int:
        return NUM_FLICKER_VIDEOS if _FLICKER in self.dimensions else NUM_VIDEOS


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteVideo:
    """One video to make. The name is `PROMPT-INDEX.mp4`, by which the package finds it."""

    prompt: str
    name: str


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
    """The prompts in their order, each text once; with `dimensions`, those that one of them needs.

    Raises:
        EvaluationError: the file is no such list, or no prompt is left.
    """
    try:
        lines = json.loads(path.read_bytes())
        found = [(str(line["prompt_en"]), tuple(map(str, line["dimension"]))) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is not the list of VBench ({error}); each entry must have prompt_en and dimension"
        ) from error
    judged: dict[str, tuple[str, ...]] = {}
    for text, of in found:
        judged[text] = (*judged.get(text, ()), *of)
    wanted = set(dimensions)
    prompts = [
        SuitePrompt(text=text, dimensions=of)
        for text, of in judged.items()
        if not wanted or wanted & set(of)
    ]
    if not prompts:
        raise EvaluationError(f"{path} holds no prompt for {', '.join(dimensions) or 'anything'}")
    return prompts


def videos_of(prompts: Sequence[SuitePrompt]) -> list[SuiteVideo]:
    """Every video of the suite.

    Raises:
        EvaluationError: a prompt cannot be the name of a file.
    """
    videos = [
        SuiteVideo(prompt=prompt.text, name=f"{prompt.text}-{index}.mp4")
        for prompt in prompts
        for index in range(prompt.num_videos)
    ]
    bad = [v.name for v in videos if "/" in v.name or len(v.name.encode()) > _MAX_NAME_BYTES]
    if bad:
        raise EvaluationError(f"the prompt of {bad[0]!r} cannot be the name of a file; shorten it")
    return videos


def make_suite(
    run: Path,
    videos: Sequence[SuiteVideo],
    folder: Path,
    sampling: Sampling,
    on_video: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Make what is missing of the suite; what the same weights and settings made is left.

    Raises:
        GenerateError: the run cannot make a video.
    """
    for done, video in enumerate(videos, start=1):
        make_video(run, video.prompt, folder / video.name, sampling)
        on_video(done, len(videos))


def read_dimensions(folder: Path) -> dict[str, float]:
    """The dimensions that `vbench evaluate` has written into a folder, 0 to 1; none if it did not run.

    Raises:
        EvaluationError: a file is unreadable, or two files hold different values of one dimension.
    """
    found: dict[str, float] = {}
    for path in sorted(folder.glob(RESULTS_PATTERN)):
        try:
            # Each dimension: its mean, then the score of every video.
            values = {str(k): float(v[0]) for k, v in json.loads(path.read_bytes()).items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise EvaluationError(
                f"{path} is no result of VBench ({error}); run it again"
            ) from error
        again = [name for name in values if name in found and found[name] != values[name]]
        if again:
            raise EvaluationError(
                f"{path} and an earlier file differ in {', '.join(again)}; delete the older one"
            )
        found |= values
    return found
