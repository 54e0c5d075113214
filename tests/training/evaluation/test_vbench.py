"""The program of VBench by one that finds its videos and writes its results as the authors' does, without their networks."""

import os
import stat
import sys
import time
from pathlib import Path

import pytest

from training.errors import EvaluationError
from training.evaluation.vbench import LIST_NAME, VBench, commands, read_dimensions

PROGRAM = """#!{python}
import argparse, json, os, pathlib, shutil, subprocess, sys, time

command, *words = sys.argv[1:]
parser = argparse.ArgumentParser()
for name in ("videos_path", "output_path", "result_path", "full_json_dir", "dimension"):
    parser.add_argument("--" + name)
asked = parser.parse_args(words)
names = os.listdir(asked.videos_path)
if command == "static_filter":
    still = pathlib.Path(asked.result_path, "filtered_videos")
    still.mkdir(parents=True)
    shutil.copy(pathlib.Path(asked.videos_path, "a lake-7.mp4"), still / "a lake-0.mp4")
    sys.exit()
if asked.dimension == "scene":
    print("no kernel image is available")
    sys.exit()
if asked.dimension == "color":
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
ending = pathlib.Path(names[0]).suffix
for entry in json.loads(pathlib.Path(asked.full_json_dir).read_text()):
    found = [n for i in range(5) if (n := entry["prompt_en"] + "-" + str(i) + ending) in names]
result = {{asked.dimension: [len(found) / 5, [{{"video_path": n, "video_results": 1.0}} for n in found]]}}
pathlib.Path(asked.output_path, f"results_{{time.time_ns()}}_eval_results.json").write_text(json.dumps(result))
"""


def fake_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of one prompt, in a folder whose name no shell may split."""
    suite = tmp_path / "my suite"
    (suite / "videos").mkdir(parents=True)
    for index in range(25):
        (suite / "videos" / f"a lake-{index}.mp4").touch()
    (suite / LIST_NAME).write_text(
        '[{"prompt_en": "a lake", "dimension": ["temporal_flickering"]}]'
    )
    return suite


def test_each_dimension_is_one_run_whose_result_is_read(suite: Path, tmp_path: Path) -> None:
    program = VBench(program=str(fake_program(tmp_path / "bin" / "vbench")))
    assert program.judge(suite, "subject_consistency") == {"subject_consistency": 1.0}
    # Of 25 videos the filter left one.
    found = program.judge(suite, "temporal_flickering")
    assert found == {"subject_consistency": 1.0, "temporal_flickering": 0.2}
    assert program.judge(suite, "temporal_flickering") == found
    assert read_dimensions(suite / "vbench") == found
    assert [words[0] for words in commands("temporal_flickering")] == ["static_filter", "evaluate"]


def test_a_run_without_a_result_is_told_with_its_last_words(suite: Path, tmp_path: Path) -> None:
    """The program leaves with 0 whatever happened in the processes that it starts."""
    program = VBench(program=str(fake_program(tmp_path / "vbench")))
    with pytest.raises(EvaluationError, match=r"no result for scene .*no kernel image.*scene\.log"):
        program.judge(suite, "scene")
    with pytest.raises(EvaluationError, match="cannot be started"):
        VBench(program=str(tmp_path / "nowhere")).judge(suite, "scene")


def test_what_takes_too_long_is_ended_with_all_that_it_started(suite: Path, tmp_path: Path) -> None:
    program = VBench(program=str(fake_program(tmp_path / "vbench")), timeout_s=1.0)
    with pytest.raises(EvaluationError, match="longer than 1 s for color"):
        program.judge(suite, "color")
    until = time.monotonic() + 30
    while sleepers(suite) and time.monotonic() < until:
        time.sleep(0.05)
    assert not sleepers(suite)


def sleepers(folder: Path) -> list[str]:
    """Processes that work in the folder."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                found.append(process.name)
        except OSError:  # another user's, or gone
            continue
    return found


def test_the_version_is_that_of_the_environment_of_the_program(tmp_path: Path) -> None:
    assert VBench(program=str(tmp_path / "vbench")).version == "vbench, version unknown"
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 0.1.5\n")
    other.chmod(0o755)
    assert VBench(program=str(tmp_path / "vbench")).version == "vbench 0.1.5"
