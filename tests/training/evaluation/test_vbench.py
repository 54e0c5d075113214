"""The program of VBench by one that finds its videos and writes its results as the authors' does, without their networks."""

import time
from pathlib import Path

import pytest

from tests.training.evaluation.programs import fake_vbench
from training.errors import EvaluationError
from training.evaluation.vbench import LIST_NAME, VBench, commands, read_dimensions


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of one prompt, in a folder whose name no shell may split."""
    suite = tmp_path / "my suite"
    (suite / "videos").mkdir(parents=True)
    for index in range(25):
        (suite / "videos" / f"a lake-{index}.mp4").touch()
    (suite / "odd").touch()
    (suite / LIST_NAME).write_text(
        '[{"prompt_en": "a lake", "dimension": ["temporal_flickering"]}]'
    )
    return suite


def test_each_dimension_is_one_run_whose_result_is_read(suite: Path, tmp_path: Path) -> None:
    program = VBench(program=str(fake_vbench(tmp_path / "bin" / "vbench")))
    assert program.judge(suite, "subject_consistency") == {"subject_consistency": 1.0}
    # Of 25 videos the filter left one.
    found = program.judge(suite, "temporal_flickering")
    assert found == {"subject_consistency": 1.0, "temporal_flickering": 0.2}
    assert program.judge(suite, "temporal_flickering") == found
    assert read_dimensions(suite / "vbench") == found
    assert [words[0] for words in commands("temporal_flickering")] == ["static_filter", "evaluate"]


def test_a_run_without_a_result_is_told_with_its_last_words(suite: Path, tmp_path: Path) -> None:
    """The program leaves with 0 whatever happened in the processes that it starts."""
    program = VBench(program=str(fake_vbench(tmp_path / "vbench")))
    with pytest.raises(EvaluationError, match=r"no result for scene .*no kernel image.*scene\.log"):
        program.judge(suite, "scene")
    with pytest.raises(EvaluationError, match="cannot be started"):
        VBench(program=str(tmp_path / "nowhere")).judge(suite, "scene")


def test_what_takes_too_long_is_ended_with_all_that_it_started(suite: Path, tmp_path: Path) -> None:
    program = VBench(program=str(fake_vbench(tmp_path / "vbench")), timeout_s=1.0)
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
            if (process / "cwd").readlink() == folder:
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
