"""The whole job on the sample film, top to bottom: what `make demo` runs.

Every step sees what is done already, so running it again prints the same summary in seconds.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from data_engine import recipes as data_recipes
from data_engine.pipeline import curate
from data_engine.ray_rows import Progress
from data_engine.report import typical_clip
from data_engine.samples import fetch_samples
from data_engine.tables import DatasetPaths, write_atomically
from orchestration.curation_summary import print_report, short
from orchestration.progress import ProgressReporter, progress_reporter
from orchestration.ray_session import ray_session
from orchestration.summary import print_encoded, print_generated, print_training
from training import recipes as training_recipes
from training.encode import encode
from training.generate import GenerateRequest, generate
from training.launch import fit

BATCH = "samples"
RUN = "demo_tiny"


def run_demo(home: Path, console: Console) -> None:
    """Sample film -> shards -> latents -> three training stages -> two sampled videos, all below `home`.

    Raises:
        JobError: the film cannot be fetched.
        TrainingError: a stage cannot start or go on.
    """
    clock = _Clock()
    sources = home / "sources" / BATCH
    dataset = DatasetPaths(home / "datasets" / BATCH)
    latents = home / "latents" / RUN
    run = home / "runs" / RUN
    recipe = training_recipes.demo_tiny()
    with clock.step("samples"):
        fetch_samples(sources, on_progress=console.print)

    with ray_session(), progress_reporter(console) as reporter:

        def show_curation(progress: Progress) -> None:
            reporter.update(progress.step, progress.done, progress.total, progress.unit)

        def show_encoding(done: int, total: int) -> None:
            reporter.update("encode latents", done, total, "clips")

        def show_training(stage: str, step: int, num_steps: int, loss: float) -> None:
            reporter.update(stage, step, num_steps, f"steps, loss {loss:.4f}")

        with clock.step("curate"):
            report = curate(data_recipes.demo(), str(sources), dataset.root, show_curation)
        with clock.step("encode"):
            encoded = encode(recipe, [dataset.root], latents, on_progress=show_encoding)
        with clock.step("train"):
            # An interrupted demo goes on where it was.
            trained = fit(recipe, [latents], run, resume=True, on_progress=show_training)

    clip, frame = typical_clip([dataset])
    image = run / "first_frame.jpg"
    with write_atomically(image) as file:
        file.write(frame)
    prompt = clip.main_text
    with progress_reporter(console) as reporter, clock.step("generate"):
        text_to_video = generate(
            run,
            GenerateRequest(prompt=prompt, cut_prompt=True),
            run / "samples" / "text_to_video.mp4",
            reuse=True,
            on_step=_show(reporter, "t2v"),
        )
        image_to_video = generate(
            run,
            GenerateRequest(prompt=prompt, image=image, cut_prompt=True),
            run / "samples" / "image_to_video.mp4",
            reuse=True,
            on_step=_show(reporter, "ti2v"),
        )

    console.rule("What was made")
    print_report(console, report, dataset.root)
    console.print(f"report: {short(dataset.report / 'index.html')}", highlight=False)
    print_encoded(console, encoded)
    print_training(console, trained)
    console.print(f"prompt: {prompt}", highlight=False, markup=False)
    print_generated(console, text_to_video)
    print_generated(console, image_to_video)
    console.print(clock.summary(), highlight=False)
    console.print(clip.attribution or "", highlight=False, markup=False)


def _show(reporter: ProgressReporter, name: str) -> Callable[[int, int], None]:
    return lambda done, total: reporter.update(name, done, total, "sampling steps")


class _Clock:
    """Seconds spent on each step."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        start_s = time.monotonic()
        yield
        self._seconds[name] = time.monotonic() - start_s

    def summary(self) -> str:
        parts = [f"{name} {seconds:.0f} s" for name, seconds in self._seconds.items()]
        return f"seconds: {', '.join(parts)}; together {sum(self._seconds.values()):.0f} s"
