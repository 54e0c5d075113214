"""The command as a user calls it: output, exit code, and one line for a mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.cli import main
from tests.videos import frames_of, moving_texture, write_video

Stiv = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stiv(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stiv:
    """The entry point with these arguments -> exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["stiv", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def test_help_lists_the_commands() -> None:
    # The installed command, in a process of its own.
    command = Path(sys.executable).with_name("stiv")
    ran = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    for name in (
        "samples",
        "curate",
        "stats",
        "lineage",
        "encode",
        "train",
        "generate",
        "app",
        "demo",
    ):
        assert name in ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("curate", "--source", "videos", "--dataset", "data", "--set", "filters.min_motion=0.25"),
        ("train", "--set", "seed=25"),
    ],
)
def test_print_config_prints_json_with_the_override_and_does_nothing(
    stiv: Stiv, arguments: tuple[str, ...]
) -> None:
    code, out, err = stiv(*arguments, "--print-config")
    assert code == 0, err
    assert "25" in json.dumps(json.loads(out))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("curate", "--source", "{tmp}/empty", "--dataset", "{tmp}/d"), "holds no videos"),
        (("curate", "--source", "x", "--dataset", "d", "--recipe", "x"), "valid: demo, stiv_256"),
        (("curate", "--source", "x", "--dataset", "d", "--set", "a.b=1"), "valid: probe, decode"),
        (("curate", "--source", "{film}", "--dataset", "{film}/d"), "Not a directory"),
        (("stats", "--dataset", "{tmp}/none"), "does not exist"),
        (("train", "--dataset", "{tmp}/none", "--run", "{tmp}/r"), "{tmp}/none"),
        (("train", "--dataset", "{tmp}", "--run", "{tmp}/r", "--set", "sead=1"), "near it: seed"),
        (("generate", "--run", "{tmp}", "--prompt", "a", "--out", "{tmp}/a.mp4"), "{tmp}"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(
    stiv: Stiv, tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    (tmp_path / "empty").mkdir()
    film = write_video(tmp_path / "films" / "a.mp4", frames_of([(moving_texture(1), 4)]))
    code, _, err = stiv(*(a.format(tmp=tmp_path, film=film) for a in arguments))
    assert code == 2
    (error,) = err.strip().splitlines()
    assert error.startswith("error: ")
    assert line.format(tmp=tmp_path) in error


@pytest.mark.parametrize("arguments", [("curate", "--dataset", "d"), ("train", "--run", "r")])
def test_what_a_command_needs_is_asked_for(stiv: Stiv, arguments: tuple[str, ...]) -> None:
    code, _, err = stiv(*arguments)
    assert code == 2
    assert "are needed" in err


def test_a_wrong_option_is_a_usage_error(stiv: Stiv) -> None:
    code, _, err = stiv("curate", "--sourc", "x")
    assert code == 2
    assert "--sourc" in err
