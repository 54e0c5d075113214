"""The page itself, in Gradio: one tab that makes videos, one that sets checkpoints side by side."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

# Read when Gradio is imported: it would otherwise tell its makers that it was started.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"
import gradio as gr
from gradio.themes import Base

from orchestration.app.session import OnStep, Refused, Session, Shown
from orchestration.errors import USER_ERRORS
from training.generate import GenerateRequest
from training.generate_request import GenerateTask, GuidanceScheme, Solver
from training.given_inputs import MAX_VIDEO_BYTES

RECIPE = "as in the recipe"
FROM_INPUTS = "what the inputs say"
HOST = "127.0.0.1"
BUTTONS: Any = ["download", "fullscreen"]
"""Gradio has another one, which shares a picture on a server of its makers."""
CACHE_AGE_S = 24 * 3600
# One video at a time: the models of a run are shared by all who look at the page.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}
# The default theme would fetch fonts.
THEME_FONTS: dict[str, Any] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}

Values = dict[Any, Any]
Fields = dict[str, Any]
Files = tuple[str, str, str, str]
"""A label, a video and its contact sheet, or why there is none: Gradio keeps plain values only."""


def serve(session: Session, port: int) -> None:
    """Serve the page on this machine alone until interrupted.

    Raises:
        OSError: the port is taken.
    """
    build(session).launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        allowed_paths=[str(session.out)],
        max_file_size=MAX_VIDEO_BYTES,
        theme=Base(**THEME_FONTS),
    )


def build(session: Session) -> gr.Blocks:
    """The page over a session, not yet served."""
    with gr.Blocks(
        title="STIV", analytics_enabled=False, delete_cache=(CACHE_AGE_S, CACHE_AGE_S)
    ) as page:
        gr.Markdown("# STIV: text and images to video")
        with gr.Tab("Generate"):
            _generate_tab(session, page)
        with gr.Tab("Compare checkpoints"):
            _compare_tab(session, page)
    return page


def _generate_tab(session: Session, page: gr.Blocks) -> None:
    with gr.Row():
        with gr.Column():
            choices = _choices(session)
            model = gr.Dropdown(choices, value=choices[0], label="Model")
            fields = _fields("What the video should show")
            button = gr.Button("Make the video", variant="primary")
        with gr.Column():
            video = gr.Video(label="Result", autoplay=True, loop=True)
            note = gr.Markdown()
            sheet = gr.Image(label="Frames", type="filepath", interactive=False, buttons=BUTTONS)
            settings = gr.JSON(label="Settings of this video", open=False)
    history = gr.Gallery(
        label="History, the newest first", columns=4, object_fit="contain", buttons=BUTTONS
    )
    # As the page shows it: the folder may hold more by now.
    names: Any = gr.State([])
    result = [video, sheet, settings, note]

    def run(values: Values, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008  (how Gradio passes it)
        with _one_line():
            request = _request(fields, values)
            shown, said = session.make(session.model(values[model]), request, _bar(progress))
        return [*_outputs(shown, said), *_past(session)]

    def pick(names: list[str], chosen: gr.SelectData) -> list[Any]:
        found = session.find(names[chosen.index])
        return [None] * len(result) if found is None else _outputs(found, "")

    def load() -> list[Any]:
        # A run may go on training while the page is open.
        return [gr.Dropdown(_choices(session)), *_past(session)]

    inputs: set[Any] = {model, *fields.values()}
    button.click(run, inputs, [*result, history, names], **ONE_AT_A_TIME)
    history.select(pick, names, result)
    page.load(load, None, [model, history, names])


def _compare_tab(session: Session, page: gr.Blocks) -> None:
    fields = _fields("The same prompt for all")
    chosen = gr.CheckboxGroup(list(session.models()), label="Checkpoints")
    button = gr.Button("Make them all", variant="primary")
    made: gr.State = gr.State([])

    def run(values: Values, progress: gr.Progress = gr.Progress()) -> list[Files]:  # noqa: B008  (the same)
        with _one_line():
            if not values[chosen]:
                raise gr.Error("choose at least one checkpoint", print_exception=False)
            request = _request(fields, values)
            made_by = session.compare(values[chosen], request, _bar(progress))
            return [_plain(one) for one in made_by]

    def load() -> gr.CheckboxGroup:
        return gr.CheckboxGroup(list(session.models()))

    inputs: set[Any] = {chosen, *fields.values()}
    button.click(run, inputs, made, **ONE_AT_A_TIME)
    page.load(load, None, chosen)

    @gr.render(inputs=made)
    def side_by_side(all_files: Sequence[Files]) -> None:
        with gr.Row():
            for label, video, sheet, error in all_files:
                with gr.Column(min_width=240):
                    if error:
                        gr.Markdown(f"**{label}**: {error}")
                        continue
                    gr.Video(video, label=label, autoplay=True, loop=True)
                    gr.Image(sheet, label=f"Frames of {label}", buttons=BUTTONS)


def _choices(session: Session) -> list[str]:
    return [*session.automatic(), *session.models()]


def _fields(placeholder: str) -> Fields:
    """All that a request says, by the names of `GenerateRequest`."""
    fields = _input_fields(placeholder)
    with gr.Accordion("Settings", open=False):
        return fields | _setting_fields() | _shape_fields()


def _input_fields(placeholder: str) -> Fields:
    prompt = gr.Textbox(
        label="Prompt",
        placeholder=placeholder,
        info="Of a run that was trained on classes, the name of a class.",
    )
    with gr.Row():
        # Read as it was uploaded, with its orientation and without a second compression.
        image = gr.Image(
            label="First image",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            height=240,
        )
        video = gr.Video(
            label="Or a video to continue or to fill up", sources=["upload"], height=240
        )
    task = gr.Dropdown([FROM_INPUTS, *get_args(GenerateTask)], value=FROM_INPUTS, label="Task")
    return {"prompt": prompt, "image": image, "video": video, "task": task}


def _setting_fields() -> Fields:
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0)
        steps = gr.Number(None, label="Steps", precision=0, placeholder=RECIPE)
        scale = gr.Number(None, label="Guidance scale", placeholder=RECIPE)
        image_scale = gr.Number(None, label="Of the image, in separate", placeholder=RECIPE)
    with gr.Row():
        scheme = gr.Dropdown(
            [RECIPE, *get_args(GuidanceScheme)], value=RECIPE, label="Guidance scheme"
        )
        solver = gr.Dropdown([RECIPE, *get_args(Solver)], value=RECIPE, label="Solver")
        negative = gr.Textbox(label="Negative prompt")
    cut = gr.Checkbox(label="Cut a prompt that is too long, as in training")
    return {
        "seed": seed,
        "num_sampling_steps": steps,
        "guidance_scale": scale,
        "image_guidance_scale": image_scale,
        "guidance_scheme": scheme,
        "solver": solver,
        "negative_prompt": negative,
        "cut_prompt": cut,
    }


def _shape_fields() -> Fields:
    with gr.Row():
        height = gr.Number(None, label="Height in px", precision=0, placeholder=RECIPE)
        width = gr.Number(None, label="Width in px", precision=0, placeholder=RECIPE)
        frames = gr.Number(None, label="Frames", precision=0, placeholder=RECIPE)
        fps = gr.Number(None, label="Frames a second", placeholder=RECIPE)
    join = gr.Checkbox(label="Of a long video: show each key frame once")
    return {
        "height_px": height,
        "width_px": width,
        "num_frames": frames,
        "fps": fps,
        "strict_join": join,
    }


def _request(fields: Fields, values: Values) -> GenerateRequest:
    """What the fields say; an empty one leaves its setting to the recipe."""
    found = {name: values[field] for name, field in fields.items()}
    found = {
        name: value for name, value in found.items() if value not in (None, "", RECIPE, FROM_INPUTS)
    }
    found |= {name: Path(found[name]) for name in ("image", "video") if name in found}
    return GenerateRequest(**found)


def _outputs(shown: Shown, note: str) -> list[Any]:
    return [str(shown.video), str(shown.sheet), shown.settings, note or shown.line]


def _plain(one: Shown | Refused) -> Files:
    if isinstance(one, Refused):
        return one.line, "", "", one.error
    return one.line, str(one.video), str(one.sheet), ""


def _past(session: Session) -> list[Any]:
    """Pictures and lines of the history, and the names of the videos."""
    past = session.history()
    return [[(str(one.sheet), one.line) for one in past], [one.video.name for one in past]]


def _bar(progress: gr.Progress) -> OnStep:
    def show(done: int, total: int) -> None:
        progress((done, total), unit="steps")

    return show


@contextmanager
def _one_line() -> Generator[None]:
    """What a user can mend appears as a line on the page."""
    try:
        yield
    except USER_ERRORS as error:
        raise gr.Error(str(error), print_exception=False) from error
