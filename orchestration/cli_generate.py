"""The commands that make videos from a run: registered on the app of `orchestration.cli`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from orchestration.progress import progress_reporter
from orchestration.ray_session import LOCAL, ray_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training.generate import GenerateRequest
    from training.generate_many import Made

console = Console(soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to an app."""
    app.command()(generate)
    app.command("app")(open_app)


def generate(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training run.")],
    out: Annotated[
        Path, typer.Option("--out", help="NAME.mp4, .gif or .png; with --prompts a folder.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", help="What the video should show.")] = "",
    class_name: Annotated[
        str | None, typer.Option("--class", help="Instead of a prompt, of a run of classes.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="One video a line: .txt, or .csv or .jsonl with columns prompt, class, negative_prompt, seed, image, "
            "video, task. What is made already is left.",
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="The first frame, or the one view.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option("--video", help="To be continued, or to be filled up.")
    ] = None,
    task: Annotated[
        Literal[
            "t2i", "t2v", "ti2v", "prediction", "upsampling", "interpolation", "long", "multi_view"
        ]
        | None,
        typer.Option("--task", help="Follows from the inputs, if left out."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            help="If not the last finished one that can do it; one that still trains needs --checkpoint.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", help="Of that stage, such as step-000100, or latest; if not its last."
        ),
    ] = None,
    negative_prompt: Annotated[str, typer.Option("--negative-prompt")] = "",
    cut_prompt: Annotated[
        bool, typer.Option("--cut-prompt", help="Cut a prompt that is too long, as in training.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    solver: Annotated[Literal["euler", "heun"] | None, typer.Option("--solver")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps.")] = None,
    guidance_scheme: Annotated[
        Literal["joint", "text", "separate", "none"] | None,
        typer.Option("--guidance-scheme", help="joint is JIT-CFG, separate SIT-CFG."),
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--cfg", "--guidance-scale", help="Of the guidance.")
    ] = None,
    image_guidance_scale: Annotated[
        float | None, typer.Option("--image-cfg", help="Of the image, in the scheme separate.")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", help="The nearest trained size is made.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width")] = None,
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", help="The nearest trained length is made.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames a second of playback.")] = None,
    video_format: Annotated[
        Literal["mp4", "gif", "png"] | None,
        typer.Option("--format", help="Of a folder of videos; png is a contact sheet."),
    ] = None,
    strict_join: Annotated[
        bool, typer.Option("--strict-join", help="Of a long video: show each key frame once.")
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            help="Clips of --prompts that are sampled at once, for a GPU; the last bits may differ from one by one.",
        ),
    ] = 1,
    num_workers: Annotated[
        int, typer.Option("--num-workers", min=0, help="Processes for --prompts; 0: this one.")
    ] = 0,
    num_gpus: Annotated[
        float, typer.Option("--num-gpus", min=0, help="Share of a GPU that each worker holds.")
    ] = 0.0,
    ray_address: Annotated[
        str, typer.Option("--ray-address", help="host:port of a Ray cluster for the workers.")
    ] = LOCAL,
) -> None:
    """Sample videos from a trained run: from text, a class, an image, or the frames of a video."""
    from training.generate import GenerateRequest

    request = GenerateRequest(
        prompt=prompt,
        class_name=class_name,
        image=image,
        video=video,
        task=task,
        stage=stage,
        checkpoint=checkpoint,
        negative_prompt=negative_prompt,
        cut_prompt=cut_prompt,
        seed=seed,
        solver=solver,
        num_sampling_steps=steps,
        guidance_scheme=guidance_scheme,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
        height_px=height,
        width_px=width,
        num_frames=num_frames,
        fps=fps,
        strict_join=strict_join,
    )
    if prompts is not None:
        if prompt or class_name or image or video:
            raise typer.BadParameter("with --prompts, what is shown and given stands in the file")
        ray = (num_workers, num_gpus, ray_address)
        _generate_many(run, out, (prompts, request), video_format or "mp4", batch_size, ray)
        return
    if num_workers or num_gpus or batch_size > 1:
        raise typer.BadParameter("--num-workers, --num-gpus and --batch-size are for --prompts")
    if video_format is not None and out.suffix != f".{video_format}":
        raise typer.BadParameter(f"--out {out} does not end in .{video_format}")
    _generate_one(run, request, out)


def _generate_one(run: Path, request: "GenerateRequest", out: Path) -> None:
    from orchestration.summary import print_generated
    from training.generate import OpenRun

    opened = OpenRun(run)
    plan = opened.plan(request, out)
    for note in plan.notes:
        _say(note)
    with progress_reporter(console) as reporter:

        def show(done: int, total: int) -> None:
            reporter.update("sample", done, total, "steps")

        result = opened.make(plan, show)
    print_generated(console, result)


def _generate_many(
    run: Path,
    out: Path,
    asked: "tuple[Path, GenerateRequest]",
    video_format: Literal["mp4", "gif", "png"],
    batch_size: int,
    ray: tuple[int, float, str],
) -> None:
    """A video for each line of a file; `ray` is the number of workers, what each holds of a GPU, and the cluster."""
    from training.errors import GenerateError
    from training.generate import OpenRun
    from training.generate_many import Failure, make_in_turn, plan_many, write_list
    from training.prompt_file import read_prompts

    num_workers, num_gpus, ray_address = ray
    opened = OpenRun(run)
    jobs = plan_many(opened, read_prompts(*asked), out, video_format, _say)
    todo = [job for job in jobs if not job.is_made]
    made = [job.result for job in jobs if job.is_made]
    with progress_reporter(console) as reporter:
        reporter.update("videos", len(made), len(jobs), "videos")

        def show(name: str, done: int, total: int) -> None:
            reporter.update(name, done, total, "steps")

        failures: list[Failure] = []

        def take(results: "Iterator[Made]") -> None:
            for result in results:
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    made.append(result)
                    reporter.update("videos", len(made), len(jobs), "videos")

        if todo and num_workers:
            with ray_session(ray_address):
                from training.generate_launch import make_on_workers

                take(
                    make_on_workers(
                        run,
                        todo,
                        num_workers,
                        num_gpus=num_gpus,
                        batch_size=batch_size,
                        on_step=show,
                    )
                )
        else:
            take(make_in_turn(opened, todo, show, batch_size))
    order = {job.out: place for place, job in enumerate(jobs)}
    made.sort(key=lambda result: order[result.video])
    if made:
        _say(
            f"{len(made)} videos, {len(made) - len(todo) + len(failures)} of them made before: {write_list(out, made)}"
        )
    for failure in failures:
        _say(f"{failure.out.name}: {failure.error}")
    if failures:
        raise GenerateError(
            f"{len(failures)} of {len(jobs)} videos were not made: {failures[0].error}; the others are kept, run this "
            "again for the rest"
        )


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False)


def open_app(
    run: Annotated[list[Path], typer.Option("--run", help="Folder of a training run; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the videos.")] = Path("videos"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 7860,
) -> None:
    """Open a web page on this machine that makes videos and sets checkpoints side by side."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise typer.BadParameter("the page needs Gradio: pip install 'stiv[app]'")
    from orchestration.app.page import HOST, serve
    from orchestration.app.session import Session

    session = Session(run, out)
    _say(f"http://{HOST}:{port} (Ctrl-C ends it); videos: {session.out}")
    try:
        serve(session, port)
    except OSError as error:
        raise typer.BadParameter(f"--port {port} cannot be opened: {error}") from error
