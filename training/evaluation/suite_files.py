"""The files of a suite: each is made in one folder, with its sheet and settings, and shown alone in that of the authors."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from training.errors import EvaluationError
from training.evaluation.generation import Sampling, make_video
from training.evaluation.prompt_suites import SuiteItem
from training.generate import GenerateResult, OpenRun
from training.randomness import derive_seed

MADE_FOLDER = "made"


def make_suite(
    run: OpenRun,
    items: Sequence[SuiteItem],
    out: Path,
    shown: str,
    sampling: Sampling,
    on_video: Callable[[int, int], None] = lambda _done, _total: None,
) -> GenerateResult:
    """Make what is missing of the suite; what the same weights and settings made is left. The last one is returned.

    `out/made` holds the files with all that generation writes beside them, `out/shown` the videos or images alone: VBench
    takes the ending of whatever file it finds first for that of all.

    Raises:
        EvaluationError: files of another kind lie among those to be shown.
        GenerateError: the run cannot make a video.
    """
    _check_alone(items, out / shown)
    made: GenerateResult | None = None
    for done, item in enumerate(items, start=1):
        seeded = sampling
        if item.seed_name:
            seeded = replace(sampling, seed=derive_seed(sampling.seed, item.seed_name))
        made = make_video(run, item.prompt, out / MADE_FOLDER / item.path, seeded, item.given)
        _show(made.video, out / shown / item.path)
        on_video(done, len(items))
    assert made is not None  # a suite without prompts is refused where it is read
    return made


def _check_alone(items: Sequence[SuiteItem], folder: Path) -> None:
    suffix = Path(items[0].path).suffix
    for parent in dict.fromkeys((folder / item.path).parent for item in items):
        others = [path for path in parent.glob("*") if path.suffix != suffix or path.is_dir()]
        if others:
            raise EvaluationError(
                f"{others[0]} lies among the files of the suite, which its authors' code would stumble over; "
                "remove it, or take another --out"
            )


def _show(made: Path, shown: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    shown.parent.mkdir(parents=True, exist_ok=True)
    if shown.exists() and shown.samefile(made):
        return
    shown.unlink(missing_ok=True)
    try:
        os.link(made, shown)
    except OSError:
        shutil.copyfile(made, shown)
