"""Many videos from one run: named by what makes them, so that what is made already is left, in whatever order it came."""

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from training.errors import GenerateError, TrainingError
from training.generate import GenerateRequest, GenerateResult, OpenRun, Plan
from training.generated_files import already_made, sheet_of
from training.streaming.storage import write_whole

VideoFormat = Literal["mp4", "gif", "png"]
LIST_NAME = "videos.jsonl"
_NAME_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video: what is asked for and the file to write."""

    request: GenerateRequest
    result: GenerateResult
    is_made: bool
    kind: Hashable | None
    """`Plan.kind`: jobs of one kind can be made in one batch."""

    @property
    def out(self) -> Path:
        return self.result.video


@dataclass(frozen=True, slots=True)
class Failure:
    out: Path
    error: str


Made = GenerateResult | Failure
OnStep = Callable[[str, int, int], None]
"""Called with (who makes the video, steps done, steps in all)."""
OnNote = Callable[[str], None]


def plan_many(
    opened: OpenRun,
    requests: Sequence[GenerateRequest],
    folder: Path,
    video_format: VideoFormat,
    on_note: OnNote = lambda _: None,
) -> list[Job]:
    """Check every request and name its file; the same request twice is one job.

    A name is the start of the prompt and a hash of weights, settings and given files. `on_note` gets each line of
    `Plan.notes` once.

    Raises:
        GenerateError: a request cannot be made; the message says which one.
    """
    jobs: dict[str, Job] = {}
    told: set[str] = set()
    for number, request in enumerate(requests, start=1):
        try:
            plan = opened.plan(request, folder / f"video.{video_format}")
        except GenerateError as error:
            raise GenerateError(f"prompt {number} of {len(requests)}: {error}") from error
        for note in plan.notes:
            if note not in told:
                told.add(note)
                on_note(note)
        name = name_of(plan.result)
        if name not in jobs:
            out = folder / name
            result = replace(plan.result, video=out, contact_sheet=sheet_of(out))
            made = already_made(result)
            jobs[name] = Job(
                request=request, result=made or result, is_made=made is not None, kind=plan.kind
            )
    return list(jobs.values())


def name_of(planned: GenerateResult) -> str:
    """A file name that is the same for the same video, wherever and in whatever order it is made."""
    words = re.sub(r"[^a-z0-9]+", "-", planned.prompt.lower()).strip("-")
    start = words[:_NAME_CHARACTERS].rstrip("-") or planned.task
    content = json.dumps([planned.facts, planned.video.suffix], sort_keys=True)
    return f"{start}-{hashlib.sha256(content.encode()).hexdigest()[:16]}{planned.video.suffix}"


def batches_of(jobs: Sequence[Job], batch_size: int) -> list[list[Job]]:
    """At most `batch_size` jobs of one kind together, in the order of the first of each batch; the others alone."""
    batches: list[list[Job]] = []
    last_of: dict[Hashable, list[Job]] = {}
    for job in jobs:
        batch = None if job.kind is None else last_of.get(job.kind)
        if batch is None or len(batch) == batch_size:
            batch = []
            batches.append(batch)
            last_of[job.kind] = batch
        batch.append(job)
    return batches


def make_in_turn(
    opened: OpenRun,
    jobs: Sequence[Job],
    on_step: OnStep = lambda _n, _d, _t: None,
    batch_size: int = 1,
) -> Iterator[Made]:
    """Make the jobs one after the other, in this process. One that fails does not stop the others.

    Clips are sampled one by one, if `batch_size` is 1, and with the number of threads of the recipe, since the last bits
    of a sum depend on both: so a video is the same alone, in a file of prompts, and on any number of workers.
    """

    def show(done: int, total: int) -> None:
        on_step("sample", done, total)

    before = torch.get_num_threads()
    torch.set_num_threads(opened.config.threads_per_worker)
    try:
        for batch in batches_of(jobs, batch_size):
            yield from make_batch(opened, batch, show)
    finally:
        torch.set_num_threads(before)


def make_batch(
    opened: OpenRun, jobs: Sequence[Job], on_step: Callable[[int, int], None]
) -> list[Made]:
    """The videos of jobs of one kind, in their order, or why one cannot be made."""
    made: dict[Path, Made] = {}
    plans: dict[Path, Plan] = {}
    for job in jobs:
        try:
            plan = opened.plan(job.request, job.out)
            opened.check_text(plan)
        except TrainingError as error:
            made[job.out] = Failure(job.out, str(error))
        else:
            plans[job.out] = plan
    try:
        results = opened.make_together(list(plans.values()), on_step) if plans else ()
    except TrainingError as error:
        made |= {out: Failure(out, str(error)) for out in plans}
    else:
        made |= dict(zip(plans, results, strict=True))
    return [made[job.out] for job in jobs]


def write_list(folder: Path, made: Sequence[GenerateResult]) -> Path:
    """FOLDER/videos.jsonl: a line for each video, with its file and the settings that made it."""
    lines = [json.dumps({"file": result.video.name, **result.facts}) for result in made]
    path = folder / LIST_NAME
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path
