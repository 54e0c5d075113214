"""`stiv app`: what it works with, and the page as a person uses it, in a headless browser."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestration.app.session import Model, Refused, Session, Shown
from orchestration.cli import app
from tests.orchestration.dagster_ui import chromium, end, find_browser, free_port
from tests.training.builders import (
    encode_mp4,
    moving_square,
    tiny_config,
    tiny_stage,
    write_dataset,
)
from training.errors import GenerateError
from training.generate import GenerateRequest
from training.loop import prepare_run, train_stage

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 90.0
STAGES = ("t2v", "stiv", "v2v")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of text to video, of images and of prediction, with two checkpoints each."""
    folder = tmp_path_factory.mktemp("app")
    dataset, run = write_dataset(folder / "squares", [12, 12]), folder / "squares_run"
    stages = {task: tiny_stage(task, num_steps=4) for task in ("t2v", "stiv")}
    stages["v2v"] = tiny_stage("stiv", num_steps=4, num_frames=6, given=("first_four",))
    config = tiny_config(stages=stages)
    prepare_run(config, [dataset], run)
    for stage in stages:
        train_stage(config, stage, [dataset], run)
    return run


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(encode_mp4(moving_square(12, 5)))
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(moving_square(1, 5)[0]).save(path)
    return path


def ignore(done: int, total: int) -> None:
    """No bar is shown."""


def test_a_video_is_made_once_and_stays_in_the_history(run: Path, tmp_path: Path) -> None:
    session = Session([run], tmp_path / "videos")
    (model,) = session.automatic().values()
    asked = GenerateRequest(prompt="a square", num_frames=9)
    shown, note = session.make(model, asked, ignore)
    assert "9 frames asked for" in note
    assert shown.line == "t2v: a square (test: stiv, step-000004, seed 0)"
    steps: list[int] = []
    again, _ = session.make(model, asked, lambda done, total: steps.append(done))
    assert (again, steps) == (shown, [])
    session.make(model, GenerateRequest(prompt="a circle"), ignore)
    (tmp_path / "videos" / "other.settings.json").write_text("[]")
    later = Session([run], tmp_path / "videos").history()
    assert [past.settings["prompt"] for past in later] == ["a circle", "a square"]
    assert later[1].video == shown.video
    assert session.find(shown.video.name) == shown
    shown.video.unlink()
    assert session.find(shown.video.name) is None


def test_checkpoints_are_set_side_by_side(run: Path, photo: Path, tmp_path: Path) -> None:
    session = Session([run], tmp_path / "videos")
    labels = list(session.models())
    assert labels == [
        f"squares_run: {stage}, step-{step:06d}" for stage in STAGES for step in (2, 4)
    ]
    labels = labels[:4]
    steps: list[tuple[int, int]] = []
    made = list(
        session.compare(
            labels, GenerateRequest(prompt="x"), lambda done, total: steps.append((done, total))
        )
    )
    assert [one.line for one in made] == labels
    videos = [one.video.read_bytes() for one in made if isinstance(one, Shown)]
    assert len(set(videos)) == 4
    assert steps == [(done, 8) for done in range(1, 9)]
    # A stage that was not trained on images says so, beside the others.
    first, last = session.compare([labels[0], labels[3]], GenerateRequest(image=photo), ignore)
    assert isinstance(first, Refused)
    assert "trained with given='first'" in first.error
    assert isinstance(last, Shown)


def test_a_stage_that_still_trains_is_compared_with_the_others(run: Path, tmp_path: Path) -> None:
    training = tmp_path / "training_run"
    shutil.copytree(run, training)
    (training / "stiv" / "result.json").unlink()
    session = Session([training], tmp_path / "videos")
    finished, _, early, latest, *_ = session.models()
    assert (early, latest) == tuple(f"training_run: stiv, step-{step:06d}" for step in (2, 4))
    asked = GenerateRequest(prompt="x")
    made = list(session.compare([finished, early, latest], asked, ignore))
    assert len({one.video for one in made if isinstance(one, Shown)}) == 3
    # Where the task decides, a finished stage is taken.
    (automatic,) = session.automatic().values()
    assert "t2v, step-000004" in session.make(automatic, asked, ignore)[0].line
    # Another checkpoint took its place while the page was open.
    shutil.rmtree(training / "stiv" / "checkpoints" / "step-000002")
    gone, there = session.compare([early, latest], asked, ignore)
    assert isinstance(gone, Refused)
    assert "step-000002: this checkpoint is gone" in gone.error
    assert isinstance(there, Shown)
    (refused,) = session.compare([latest], replace(asked, fps=float("nan")), ignore)
    assert isinstance(refused, Refused)
    assert "fps is nan, it must be from 0.1" in refused.error


def test_runs_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    other = tmp_path / run.name
    other.symlink_to(run)
    copied = tmp_path / "more" / run.name
    copied.mkdir(parents=True)
    for name in ("config.json", "autoencoder.safetensors"):
        (copied / name).write_bytes((run / name).read_bytes())
    session = Session([run, other, copied], tmp_path / "videos")
    assert [model.run for model in session.automatic().values()] == [str(run), str(copied)]
    assert {model.run for model in session.models().values()} == {str(run)}
    assert Model(str(run), "t2v", "step-000002") in session.models().values()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match="holds no run"):
        Session([tmp_path], tmp_path / "videos")


def test_without_gradio_the_command_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app", "--run", str(run), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "stiv[app]" in result.output


@pytest.mark.ui
def test_the_page_makes_videos_and_compares_checkpoints(
    run: Path, photo: Path, film: Path, tmp_path: Path
) -> None:
    found = find_browser()
    missing = found is None or importlib.util.find_spec("gradio") is None
    if missing and "CI" not in os.environ:
        pytest.skip("needs chromium, chromedriver (`make browser`) and the extra `app`")
    assert found, "CI is set, so Chromium and chromedriver must be installed (`make browser`)"
    out = tmp_path / "videos"
    with stiv_app(run, out) as url, chromium(*found, tmp_path / "profile") as page:
        page.open(url)
        page.type("What the video should show", "a red square")
        page.click("Make the video")
        (first,) = page.play(1)
        page.see("t2v: a red square (test: stiv, step-000004, seed 0)")
        page.upload(photo)
        page.click("Make the video")
        page.see('"ti2v"')
        (second,) = page.play(1)
        assert second != first
        page.click("t2v: a red square (test: stiv, step-000004, seed 0)")
        page.see('"t2v"')
        assert page.play(1) == [first]

        page.click("Compare checkpoints")
        page.type("The same prompt for all", "a red square")
        page.click("Make them all")
        page.see("choose at least one checkpoint")
        for label in ("squares_run: t2v, step-000002", "squares_run: stiv, step-000004"):
            page.click(label)
        page.click("Make them all")
        assert len(set(page.play(2))) == 2
        # Stages that go on from a video are compared by what they make of it.
        page.upload(film, "video")
        for stage, step in (("t2v", 2), ("stiv", 4), ("v2v", 2), ("v2v", 4)):
            page.click(f"squares_run: {stage}, step-{step:06d}")
        page.click("Make them all")
        page.see("Frames of squares_run: v2v, step-000004")
        assert len(set(page.play(3))) == 3
        # Nothing was fetched from, or told to, anybody else.
        assert page.hosts() == {"127.0.0.1"}
    made = [json.loads(path.read_text()) for path in out.glob("*.settings.json")]
    # The video by the last checkpoint was there already.
    others = [one for one in made if one["task"] != "prediction"]
    assert sorted((one["task"], one["stage"], one["checkpoint"]) for one in others) == [
        ("t2v", "stiv", "step-000004"),
        ("t2v", "t2v", "step-000002"),
        ("ti2v", "stiv", "step-000004"),
    ]
    predicted = [one for one in made if one["task"] == "prediction"]
    assert sorted(one["checkpoint"] for one in predicted) == ["step-000002", "step-000004"]
    assert {(one["stage"], one["given_psnr_db"]) for one in predicted} == {("v2v", 100.0)}


@contextmanager
def stiv_app(run: Path, out: Path) -> Generator[str]:
    """The command as a user starts it, on a port of its own."""
    port = free_port()
    words = ["app", "--run", run, "--out", out, "--port", port]
    program = "from orchestration.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        env=os.environ | {"GRADIO_TEMP_DIR": str(out.parent / "gradio")},
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not answers(url):
            assert process.poll() is None, "the app ended"
            assert time.monotonic() < deadline_s, "the app is silent"
            time.sleep(0.5)
        yield url
    finally:
        end(process)


def answers(url: str) -> bool:
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
