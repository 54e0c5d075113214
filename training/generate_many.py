"""Many videos from one run: named by what makes them, so that what is made already is left, in whatever order it came."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from training.errors import GenerateError, TrainingError
from training.generate import GenerateRequest, GenerateResult, OpenRun
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

    A name is the start of the prompt and a hash of weights, settings and given files. `on_note` gets a line for each shape
    that is not the one that was asked for.

    Raises:
        GenerateError: a request cannot be made; the message says which one.
    """
    jobs: dict[str, Job] = {}
    notes: set[str] = set()
    for number, request in enumerate(requests, start=1):
        try:
            plan = opened.plan(request, folder / f"video.{video_format}")
        except GenerateError as error:
            raise GenerateError(f"prompt {number} of {len(requests)}: {error}") from error
        if plan.note is not None and plan.note not in notes:
            notes.add(plan.note)
            on_note(plan.note)
        name = name_of(plan.result)
        if name not in jobs:
            out = folder / name
            result = replace(plan.result, video=out, contact_sheet=sheet_of(out))
            made = already_made(result)
            jobs[name] = Job(request=request, result=made or result, is_made=made is not None)
    return list(jobs.values())


def name_of(planned: GenerateResult) -> str:
    """A file name that is the same for the same video, wherever and in whatever order it is made."""
    words = re.sub(r"[^a-z0-9]+", "-", planned.prompt.lower()).strip("-")
    start = words[:_NAME_CHARACTERS].rstrip("-") or planned.task
    content = json.dumps([planned.facts, planned.video.suffix], sort_keys=True)
    return f"{start}-{hashlib.sha256(content.encode()).hexdigest()[:16]}{planned.video.suffix}"


def make_in_turn(
    opened: OpenRun, jobs: Iterable[Job], on_step: OnStep = lambda _n, _d, _t: None
) -> Iterator[Made]:
    """Make the jobs one after the other, in this process. One that fails does not stop the others.

    Clips are sampled one by one and with the number of threads of the recipe, since the last bits of a sum depend on both:
    so a video is the same alone, in a file of prompts, and on any number of workers.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(opened.config.threads_per_worker)
    try:
        for job in jobs:
            yield make_job(opened, job, on_step)
    finally:
        torch.set_num_threads(before)


def make_job(opened: OpenRun, job: Job, on_step: OnStep) -> Made:
    """The video of one job, or why it cannot be made."""

    def show(done: int, total: int) -> None:
        on_step("sample", done, total)

    try:
        return opened.make(opened.plan(job.request, job.out), show)
    except TrainingError as error:
        return Failure(job.out, str(error))


def write_list(folder: Path, made: Sequence[GenerateResult]) -> Path:
    """FOLDER/videos.jsonl: a line for each video, with its file and the settings that made it."""
    lines = [json.dumps({"file": result.video.name, **result.facts}) for result in made]
    path = folder / LIST_NAME
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path
