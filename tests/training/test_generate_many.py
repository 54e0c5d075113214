"""Files of prompts, formats, views and classes from small runs that were trained for each."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.training.builders import (
    moving_square,
    tiny_config,
    tiny_stage,
    write_clips,
    write_dataset,
)
from training.camera_grid import camera_grid
from training.clip_sampler import IDENTICAL_PSNR_DB
from training.config import EncoderConfig
from training.errors import GenerateError
from training.generate import GenerateRequest, OpenRun, generate
from training.generate_many import (
    Failure,
    Job,
    batches_of,
    make_in_turn,
    plan_many,
    write_list,
)
from training.generate_request import makes_views
from training.generated_files import GenerateResult
from training.loop import prepare_run, train_stage
from training.recipes.ucf101 import UCF101_CLASSES

pytestmark = pytest.mark.slow

RED, BLUE = GenerateRequest(prompt="a red square"), GenerateRequest(prompt="a blue square", seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that animates four frames or eight, and one of seven views, of two steps each."""
    folder = tmp_path_factory.mktemp("views")
    stages = {
        "stiv": tiny_stage("stiv", num_steps=2, more_num_frames=(8,)),
        "views": tiny_stage(
            "stiv", num_steps=2, num_frames=7, sampling_stride=1, text_dropout_prob=1.0
        ),
    }
    config = tiny_config(stages=stages)
    contract = config.model.contract.model_copy(update={"null_image": "zeros"})
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"contract": contract})}
    )
    dataset = write_dataset(folder / "squares", [7, 24, 7, 24])
    prepare_run(config, [dataset], folder / "run")
    for stage in stages:
        train_stage(config, stage, [dataset], folder / "run")
    return folder / "run"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(moving_square(1, 5)[0]).save(path)
    return path


def jobs_of(run: Path, folder: Path, *requests: GenerateRequest) -> list[Job]:
    return plan_many(OpenRun(run), requests, folder, "mp4")


def made_of(run: Path, jobs: list[Job]) -> dict[str, str]:
    """Hashes of the videos that are made, by name."""
    made = list(make_in_turn(OpenRun(run), [job for job in jobs if not job.is_made]))
    assert all(isinstance(one, GenerateResult) for one in made), made
    return {job.out.name: hashlib.sha256(job.out.read_bytes()).hexdigest() for job in jobs}


def test_a_video_does_not_depend_on_the_order(run: Path, tmp_path: Path) -> None:
    forth = made_of(run, jobs_of(run, tmp_path / "forth", RED, BLUE, RED))
    back = made_of(run, jobs_of(run, tmp_path / "back", BLUE, RED))
    assert forth == back
    assert len(set(forth.values())) == 2
    assert sorted(name.rsplit("-", 1)[0] for name in forth) == ["a-blue-square", "a-red-square"]


def test_what_is_made_is_left_and_what_changed_is_another_video(run: Path, tmp_path: Path) -> None:
    first = jobs_of(run, tmp_path, RED)
    made_of(run, first)
    again = jobs_of(run, tmp_path, RED, BLUE, replace(RED, num_sampling_steps=1))
    assert [job.is_made for job in again] == [True, False, False]
    assert len({job.out for job in again}) == 3
    assert again[0].out == first[0].out
    # A video whose settings were not written was killed half-way.
    first[0].out.with_suffix(".settings.json").unlink()
    assert [job.is_made for job in jobs_of(run, tmp_path, RED)] == [False]


def test_one_that_fails_does_not_stop_the_others(run: Path, tmp_path: Path) -> None:
    jobs = jobs_of(run, tmp_path, GenerateRequest(prompt="word " * 200), RED)
    failed, made = make_in_turn(OpenRun(run), jobs)
    assert isinstance(failed, Failure)
    assert "has 202 tokens, text encoder minilm reads 128; shorten it" in failed.error
    assert isinstance(made, GenerateResult)
    lines = write_list(tmp_path, [made]).read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [made.video.name]


def test_a_batch_makes_what_is_made_one_by_one(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts and an image at one shape, two at another, a view, and a prompt that is too long."""
    others = [RED, BLUE, replace(RED, seed=5), replace(RED, image=photo)]
    longer = [replace(one, num_frames=8) for one in (RED, BLUE)]
    too_long = replace(RED, prompt="word " * 200)
    views = GenerateRequest(image=photo, task="multi_view")
    asked = [others[0], longer[0], too_long, *others[1:], longer[1], views]
    jobs = jobs_of(run, tmp_path / "together", *asked)
    assert [len(batch) for batch in batches_of(jobs, 3)] == [3, 2, 1, 1, 1]
    frames: dict[str, list[Tensor]] = {}

    def keep(result: GenerateResult, frames_FHWC: Tensor) -> None:
        frames.setdefault(result.video.name, []).append(frames_FHWC)

    monkeypatch.setattr("training.generate.write_result", keep)
    opened = OpenRun(run)
    *_, alone = (list(make_in_turn(opened, jobs, batch_size=size)) for size in (3, 1))
    assert [type(one) for one in alone].count(Failure) == 1
    assert len(frames) == 7
    for together, one in frames.values():
        assert together.shape == one.shape
        assert (together.int() - one.int()).abs().max() <= 1
    # Each has its own noise, text and image.
    assert len({hashlib.sha256(one.numpy().tobytes()).digest() for _, one in frames.values()}) == 7


def test_a_batch_that_does_not_fit_says_what_to_do(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use_all_memory(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("training.clip_sampler.sample", use_all_memory)
    failed = list(make_in_turn(OpenRun(run), jobs_of(run, tmp_path, RED, BLUE), batch_size=2))
    assert all(isinstance(one, Failure) for one in failed)
    assert (
        "too little memory for 2 clips of 32x48 px, 4 frames; take a smaller --batch-size"
        in str(failed[0])
    )


def test_a_line_that_cannot_be_made_is_named_before_anything_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match=r"prompt 2 of 2: image .* does not exist"):
        jobs_of(run, tmp_path, RED, GenerateRequest(image=tmp_path / "absent.png"))


def test_a_long_prompt_is_cut_where_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    asked = GenerateRequest(prompt="word " * 200, cut_prompt=True)
    assert generate(run, asked, tmp_path / "v.mp4").cut_prompt


def test_every_file_holds_the_settings(run: Path, photo: Path, tmp_path: Path) -> None:
    asked = GenerateRequest(prompt="ein Hündchen 犬", image=photo, seed=7, fps=10.0)
    for suffix in (".gif", ".png"):
        result = generate(run, asked, tmp_path / f"v{suffix}")
        with Image.open(result.video) as opened:
            comment = opened.info["comment" if suffix == ".gif" else "Comment"]
            if suffix == ".gif":
                assert (getattr(opened, "n_frames", 1), opened.info["duration"]) == (4, 100)
        facts = json.loads(comment)
        assert (facts["prompt"], facts["seed"], facts["stage"]) == (asked.prompt, 7, "stiv")
        assert (facts["model"], facts["checkpoint"]) == ("test", "step-000002")
        assert str(tmp_path) not in str(comment)
    # Beside a GIF there is a contact sheet, and a PNG is one.
    assert (tmp_path / "v.frames.png").exists()
    assert result.contact_sheet == result.video
    with Image.open(tmp_path / "v.frames.png") as opened:
        assert json.loads(opened.info["Comment"])["seed"] == 7


def test_the_nearest_trained_length_is_made(run: Path, tmp_path: Path) -> None:
    plan = OpenRun(run).plan(replace(RED, num_frames=9, fps=4.0), tmp_path / "v.mp4")
    (note,) = plan.notes
    assert "9 frames asked for" in note
    result = OpenRun(run).make(plan)
    with av.open(str(result.video), mode="r") as container:
        stream = container.streams.video[0]
        assert (stream.frames, float(stream.average_rate or 0)) == (8, 4.0)


def test_solver_and_scheme_change_the_video(run: Path, photo: Path, tmp_path: Path) -> None:
    asked = GenerateRequest(prompt="a square", image=photo, guidance_scale=1e6)
    others = [
        asked,
        replace(asked, solver="heun"),
        replace(asked, guidance_scheme="text"),
        replace(asked, guidance_scheme="separate", image_guidance_scale=1e6),
    ]
    assert len(set(made_of(run, jobs_of(run, tmp_path, *others)).values())) == len(others)


def test_six_views_are_made_from_one(run: Path, photo: Path, tmp_path: Path) -> None:
    asked = GenerateRequest(image=photo, task="multi_view")
    result = generate(run, asked, tmp_path / "views.png")
    assert (result.stage, result.num_frames, result.prompt) == ("views", 7, "")
    assert result.given_psnr_db == IDENTICAL_PSNR_DB
    with Image.open(result.video) as sheet:
        # Frames of 32x48 px are shown eight times as large.
        shown = moving_square(7, 0)[:, :1, :1].repeat(256, 1).repeat(384, 2)
        assert sheet.size == camera_grid(shown).size
    # An image alone is animated, by the stage that does that.
    assert generate(run, GenerateRequest(image=photo), tmp_path / "v.mp4").stage == "stiv"
    assert makes_views(OpenRun(run).config.stages["views"])


def test_an_earlier_checkpoint_is_taken_or_named(run: Path, tmp_path: Path) -> None:
    opened = OpenRun(run)
    plan = opened.plan(replace(RED, checkpoint="step-000002"), tmp_path / "v.mp4")
    assert plan.result.checkpoint == "step-000002"
    with pytest.raises(GenerateError, match=r"no checkpoint step-000001; it has .*step-000002"):
        opened.plan(replace(RED, checkpoint="step-000001"), tmp_path / "v.mp4")


def test_a_class_becomes_a_video(tmp_path: Path) -> None:
    clips = [(name, moving_square(12, place)) for place, name in enumerate(UCF101_CLASSES[:4])]
    dataset, run = write_clips(tmp_path / "classes", clips), tmp_path / "run"
    config = tiny_config(stages={"classes": tiny_stage("t2v", num_steps=2)})
    encoders = EncoderConfig(
        autoencoder="patch_pca", text_encoder="class_labels", class_names=UCF101_CLASSES
    )
    widths = {"text_width": 102, "pooled_text_width": 102}
    config = config.model_copy(
        update={"encoders": encoders, "model": config.model.model_copy(update=widths)}
    )
    prepare_run(config, [dataset], run)
    train_stage(config, "classes", [dataset], run)
    result = generate(run, GenerateRequest(class_name="Archery"), tmp_path / "v.mp4")
    assert (result.prompt, result.num_frames) == ("Archery", 4)
    with pytest.raises(GenerateError, match="did you mean Archery"):
        generate(run, GenerateRequest(class_name="archer"), tmp_path / "v.mp4")


def test_a_checkpoint_that_is_gone_is_one_line(run: Path, tmp_path: Path) -> None:
    state = run / "stiv" / "checkpoints" / "step-000002" / "state.json"
    content = state.read_bytes()
    state.unlink()
    try:
        with pytest.raises(GenerateError, match="holds no checkpoint of stage stiv"):
            generate(run, RED, tmp_path / "v.mp4")
    finally:
        state.write_bytes(content)
