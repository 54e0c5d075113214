import hashlib
import json
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from orchestration.cli import app
from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.errors import GenerateError
from training.generate import GenerateRequest, OpenRun
from training.generate_launch import make_on_workers
from training.generate_many import plan_many
from training.loop import prepare_run, train_stage
from training.prompt_file import read_prompts

pytestmark = pytest.mark.slow

TABLE = "prompt,seed\na red square,1\na red square,2\na blue square,1\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished text-to-video stage of two steps."""
    folder = tmp_path_factory.mktemp("run")
    dataset, run = write_dataset(folder / "squares", [12, 12]), folder / "run"
    config = tiny_config(stages={"t2v": tiny_stage("t2v", num_steps=2)})
    prepare_run(config, [dataset], run)
    train_stage(config, "t2v", [dataset], run)
    return run


def stiv_generate(*words: object) -> Result:
    return CliRunner().invoke(app, ["generate", *map(str, words)])


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as opened:
        return np.asarray(opened).astype(np.int64)


def videos_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.mp4")}


def test_every_setting_reaches_the_file(run: Path, tmp_path: Path) -> None:
    words = ["--run", run, "--prompt", "a square", "--out", tmp_path / "v.gif"]
    words += ["--seed", 3, "--steps", 1, "--solver", "heun", "--guidance-scheme", "separate"]
    words += ["--cfg", 2, "--image-cfg", 3, "--fps", 5, "--num-frames", 9, "--format", "gif"]
    words += ["--height", 64, "--width", 96, "--negative-prompt", "red"]
    result = stiv_generate(*words)
    assert result.exit_code == 0, result.output
    assert (
        "64x96 px and 9 frames asked for; stage t2v was trained at 32x48 px, 4 frames"
        in result.output
    )
    assert "1 of 1  steps" in result.output
    made = json.loads((tmp_path / "v.settings.json").read_text())
    expected = {
        "seed": 3,
        "num_sampling_steps": 1,
        "solver": "heun",
        "guidance_scheme": "separate",
        "guidance_scale": 2.0,
        "image_guidance_scale": 3.0,
        "fps": 5.0,
        "num_frames": 4,
        "negative_prompt": "red",
    }
    assert {key: made[key] for key in expected} == expected


@pytest.mark.parametrize(
    "words",
    [
        ("--prompts", "p.csv", "--prompt", "a"),
        ("--num-workers", 2),
        ("--batch-size", 2),
        ("--format", "gif"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    run: Path, words: tuple[object, ...]
) -> None:
    assert stiv_generate("--run", run, "--out", "v.mp4", *words).exit_code == 2


@pytest.mark.parametrize("words", [("--fps", "nan"), ("--cfg", "nan"), ("--cfg", "inf")])
def test_a_setting_that_is_no_number_is_one_line(
    run: Path, tmp_path: Path, words: tuple[str, str]
) -> None:
    out = tmp_path / "v.mp4"
    result = stiv_generate("--run", run, "--prompt", "a", "--out", out, *words)
    assert isinstance(result.exception, GenerateError)
    assert f"is {words[1]}, it must be from" in str(result.exception)
    assert not out.exists()


def test_a_file_of_prompts_becomes_a_folder_of_videos(run: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "p.csv", tmp_path / "videos"
    table.write_text(TABLE)
    result = stiv_generate("--run", run, "--prompts", table, "--out", out)
    assert result.exit_code == 0, result.output
    listed = [json.loads(line) for line in (out / "videos.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["seed"]) for line in listed] == [
        ("a red square", 1),
        ("a red square", 2),
        ("a blue square", 1),
    ]
    assert videos_of(out).keys() == {line["file"] for line in listed}
    before = videos_of(out)
    (out / listed[1]["file"]).unlink()
    again = stiv_generate("--run", run, "--prompts", table, "--out", out)
    assert "3 videos, 2 of them made before" in again.output
    assert videos_of(out) == before


def test_a_prompt_that_fails_leaves_the_others(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.txt"
    table.write_text("a square\n" + "word " * 200 + "\n")
    result = stiv_generate("--run", run, "--prompts", table, "--out", tmp_path / "videos")
    assert isinstance(result.exception, GenerateError)
    assert "1 of 2 videos were not made: the prompt 'word word" in str(result.exception)
    assert len(videos_of(tmp_path / "videos")) == 1


def test_a_batch_makes_the_videos_that_are_made_one_by_one(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    table.write_text(TABLE)
    words = ("--run", run, "--prompts", table, "--format", "png", "--out")
    alone = stiv_generate(*words, tmp_path / "alone")
    together = stiv_generate(*words, tmp_path / "together", "--batch-size", 2)
    assert alone.exit_code == together.exit_code == 0, together.output
    names = sorted(path.name for path in (tmp_path / "alone").glob("*.png"))
    assert names == sorted(path.name for path in (tmp_path / "together").glob("*.png"))
    assert len(names) == 3
    for name in names:
        one, other = (pixels(tmp_path / folder / name) for folder in ("alone", "together"))
        assert np.abs(one - other).max() <= 2


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("local_ray")
def test_workers_make_the_same_videos_though_one_is_killed(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    table.write_text(TABLE)
    # So many steps that a process is found in the middle of them.
    request = GenerateRequest(num_sampling_steps=200)
    words = ("--run", run, "--prompts", table, "--steps", 200, "--out")
    alone = stiv_generate(*words, tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    killed: list[int] = []

    def kill_a_maker(_name: str, done: int, total: int) -> None:
        """Kill one process of two, all of which have a video to make, as soon as one is in the middle of it."""
        if not killed and 0 < done < total:
            makers = [p for p in psutil.Process().children(recursive=True) if "_Maker" in _title(p)]
            makers[0].kill()
            killed.append(makers[0].pid)

    opened, folder = OpenRun(run), tmp_path / "together"
    jobs = plan_many(opened, read_prompts(table, request), folder, "mp4")
    made = list(make_on_workers(run, jobs, 2, on_step=kill_a_maker))
    assert killed
    assert len(made) == len(videos_of(tmp_path / "alone")) == 3
    assert videos_of(folder) == videos_of(tmp_path / "alone")

    (folder / next(iter(videos_of(folder)))).unlink()
    again = stiv_generate(*words, folder, "--num-workers", 2)
    assert "3 videos, 2 of them made before" in again.output
    assert videos_of(folder) == videos_of(tmp_path / "alone")
    quick = ("--run", run, "--prompts", table, "--out", tmp_path / "quick", "--num-workers", 2)
    batched = stiv_generate(*quick, "--batch-size", 2)
    assert batched.exit_code == 0, batched.output
    assert len(videos_of(tmp_path / "quick")) == 3
    many = stiv_generate(*words, tmp_path / "many", "--num-workers", 1000)
    assert "--num-workers is 1000, but Ray has room for" in str(many.exception)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
