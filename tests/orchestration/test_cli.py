"""The command as a user calls it: output, exit code, and one line for a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = "import sys; from orchestration.cli import main; sys.argv[0] = 'stiv'; main()"


def stiv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_the_commands() -> None:
    ran = stiv("--help")
    assert ran.returncode == 0
    for name in ("samples", "curate", "stats", "train", "generate", "demo"):
        assert name in ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("curate", "--source", "videos", "--dataset", "data", "--set", "filters.min_motion=0.25"),
        ("train", "--dataset", "data", "--run", "run", "--set", "seed=25"),
    ],
)
def test_print_config_prints_json_with_the_override_and_does_nothing(
    arguments: tuple[str, ...],
) -> None:
    ran = stiv(*arguments, "--print-config")
    assert ran.returncode == 0, ran.stderr
    assert "25" in json.dumps(json.loads(ran.stdout))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("curate", "--source", "{tmp}", "--dataset", "{tmp}/d"), "holds no videos"),
        (("curate", "--source", "x", "--dataset", "d", "--recipe", "x"), "valid: demo, stiv_256"),
        (("curate", "--source", "x", "--dataset", "d", "--set", "a.b=1"), "valid: probe, decode"),
        (("stats", "--dataset", "{tmp}/none"), "does not exist"),
        (("train", "--dataset", "{tmp}", "--run", "{tmp}/r", "--set", "sead=1"), "valid: name"),
        (("generate", "--run", "{tmp}", "--prompt", "a", "--out", "{tmp}/a.mp4"), "{tmp}"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    ran = stiv(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert ran.returncode == 2
    (error,) = ran.stderr.strip().splitlines()
    assert error.startswith("error: ")
    assert line.format(tmp=tmp_path) in error


def test_a_wrong_option_is_a_usage_error() -> None:
    ran = stiv("curate", "--sourc", "x")
    assert ran.returncode == 2
    assert "--sourc" in ran.stderr
