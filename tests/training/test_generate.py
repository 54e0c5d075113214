import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.builders import moving_square, tiny_config, tiny_stage
from training.checkpoint import Snapshot
from training.checkpoint_writer import CheckpointWriter
from training.clip_sampler import IDENTICAL_PSNR_DB
from training.errors import GenerateError
from training.generate import GenerateRequest, generate
from training.given_inputs import read_image
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory

pytestmark = pytest.mark.slow


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `stiv` stage of two steps."""
    path = tmp_path_factory.mktemp("run")
    config = tiny_config(stages={"stiv": tiny_stage("stiv", num_steps=2)})
    prepare_run(config, [dataset], path)
    train_stage(config, "stiv", [dataset], path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(moving_square(1, 5)[0]).save(path)
    return path


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path), mode="r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_an_image_becomes_the_first_frame_of_a_playable_video(
    run: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "video.mp4"
    steps: list[tuple[int, int]] = []
    result = generate(
        run,
        GenerateRequest(prompt="a square", image=photo),
        out,
        on_step=lambda done, total: steps.append((done, total)),
    )

    frames = decoded(out)
    assert (len(frames), frames[0].shape) == (4, (256, 384, 3))
    assert (result.task, result.num_frames, result.fps) == ("ti2v", 4, 12.0)
    assert result.given_psnr_db == IDENTICAL_PSNR_DB
    assert steps == [(1, 2), (2, 2)]
    with Image.open(out.with_suffix(".frames.png")) as sheet:
        assert sheet.size == (4 * 384 + 3 * 4, 256)
    settings = json.loads(out.with_suffix(".settings.json").read_text())
    assert settings["prompt"] == "a square"
    assert settings["seed"] == 0


def test_the_seed_decides_the_video(run: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.mp4" for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        result = generate(run, GenerateRequest(prompt="a square", seed=seed), path)
        assert (result.task, result.given_psnr_db) == ("t2v", None)
    first, same, other = [np.stack(decoded(path)) for path in paths]
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_reuse_samples_only_what_would_change(run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "video.mp4"
    steps: list[int] = []

    def make(*, seed: int) -> object:
        return generate(
            run,
            GenerateRequest(prompt="a square", image=photo, seed=seed),
            out,
            reuse=True,
            on_step=lambda done, total: steps.append(done),
        )

    first = make(seed=0)
    assert make(seed=0) == first
    assert steps == [1, 2]
    assert make(seed=1) != first
    assert steps == [1, 2, 1, 2]
    Image.fromarray(moving_square(1, 9)[0]).save(photo)
    make(seed=1)
    assert steps == [1, 2] * 3
    out.unlink()
    make(seed=1)
    assert steps == [1, 2] * 4


def test_settings_replace_those_of_the_recipe(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.mp4"
    asked = GenerateRequest(prompt="x", num_sampling_steps=1, guidance_scale=2.0)
    result = generate(run, asked, out)
    assert (result.num_sampling_steps, result.guidance_scale) == (1, 2.0)
    with pytest.raises(GenerateError, match="must be at least 1"):
        generate(run, GenerateRequest(prompt="x", num_sampling_steps=0), out)


def test_a_negative_prompt_changes_the_video(run: Path, tmp_path: Path) -> None:
    plain, negative = tmp_path / "plain.mp4", tmp_path / "negative.mp4"
    # After two steps the text has hardly an influence, so it is made much of.
    asked = GenerateRequest(prompt="a square", guidance_scale=1e6)
    generate(run, asked, plain)
    generate(run, replace(asked, negative_prompt="a red square"), negative)
    assert not np.array_equal(np.stack(decoded(plain)), np.stack(decoded(negative)))


def test_the_settings_are_in_the_video_file_without_any_path(
    run: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.mp4"
    generate(run, GenerateRequest(prompt="a square", image=photo, seed=7), out)
    with av.open(str(out), mode="r") as container:
        comment = container.metadata["comment"]
    assert json.loads(comment)["seed"] == 7
    assert str(tmp_path) not in comment


def test_the_given_image_is_left_alone(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "cat.jpg"
    Image.fromarray(moving_square(1, 5)[0]).save(image)
    before = image.read_bytes()
    generate(run, GenerateRequest(prompt="a cat", image=image), tmp_path / "cat.mp4")
    assert image.read_bytes() == before
    with pytest.raises(GenerateError, match=r"cat\.jpg does not end in \.mp4, \.gif or \.png"):
        generate(run, GenerateRequest(prompt="a cat"), image)


def test_a_photo_is_turned_as_its_camera_says(run: Path, tmp_path: Path) -> None:
    config = RunDirectory(run).load_config()
    upright = Image.fromarray(np.arange(64 * 112 * 3, dtype=np.uint8).reshape(112, 64, 3))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it upright"
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(
        read_image(tmp_path / "turned.png", config.data.sizes[0]),
        read_image(tmp_path / "upright.png", config.data.sizes[0]),
    )


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match="holds no run"):
        generate(tmp_path, GenerateRequest(prompt="x"), tmp_path / "v.mp4")


def test_an_unfinished_run_is_one_line(dataset: Path, tmp_path: Path) -> None:
    prepare_run(tiny_config(), [dataset], tmp_path)
    with pytest.raises(GenerateError, match=r"no finished video stage \(finished: none\)"):
        generate(tmp_path, GenerateRequest(prompt="x"), tmp_path / "v.mp4")


def test_a_stage_that_still_trains_is_taken_where_it_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its second checkpoint of three, gone on with, and the same in the end as one in one piece."""
    config = tiny_config(stages={"stiv": tiny_stage("stiv", num_steps=6, checkpoint_every_steps=2)})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for path in (whole, broken):
        prepare_run(config, [dataset], path)
    early = GenerateRequest(prompt="x", stage="stiv", checkpoint="latest")
    with pytest.raises(GenerateError, match=r"stiv of .* has no checkpoint yet; .* after 2 steps"):
        generate(broken, early, tmp_path / "v.mp4")

    save = CheckpointWriter.save

    def die_after_four(writer: CheckpointWriter, snapshot: Snapshot) -> None:
        if snapshot.step > 4:
            raise KilledError
        save(writer, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "save", die_after_four)
        with pytest.raises(KilledError):
            train_stage(config, "stiv", [dataset], broken)

    with pytest.raises(GenerateError, match=r"; --stage stiv --checkpoint latest takes what"):
        generate(broken, replace(early, checkpoint=None), tmp_path / "v.mp4")
    film = replace(early, video=tmp_path / "film.mp4")
    with pytest.raises(
        GenerateError, match="needs a stage that was trained with given='first_four'"
    ):
        generate(broken, film, tmp_path / "v.mp4")
    with pytest.raises(GenerateError, match="no checkpoint step-000006; it has step-000002, step-"):
        generate(broken, replace(early, checkpoint="step-000006"), tmp_path / "v.mp4")
    latest = generate(broken, early, tmp_path / "latest.mp4")
    assert (latest.stage, latest.checkpoint, latest.fps) == ("stiv", "step-000004", 12.0)

    train_stage(config, "stiv", [dataset], whole)
    train_stage(config, "stiv", [dataset], broken)
    # What was made of the killed run is what the other makes of the same checkpoint.
    named = replace(early, checkpoint="step-000004")
    generate(whole, named, tmp_path / "named.mp4")
    assert np.array_equal(decoded(tmp_path / "named.mp4"), decoded(tmp_path / "latest.mp4"))
    last = [generate(path, early, tmp_path / "last.mp4") for path in (whole, broken)]
    assert [one.checkpoint for one in last] == ["step-000006"] * 2
    results = [RunDirectory(path).stage("stiv").result() for path in (whole, broken)]
    assert results[0] is not None
    assert results[0].last_loss == results[1].last_loss  # pyright: ignore[reportOptionalMemberAccess]  # both are finished


def test_an_unreadable_image_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match="does not exist"):
        generate(
            run, GenerateRequest(prompt="x", image=tmp_path / "absent.png"), tmp_path / "v.mp4"
        )
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(GenerateError, match="cannot be read as an image"):
        generate(run, GenerateRequest(prompt="x", image=tmp_path / "text.png"), tmp_path / "v.mp4")
