"""`stiv plan` and the options of `stiv train` that choose stages, as a user calls them."""

import shlex

import pytest

from orchestration.cli import main
from orchestration.recipe import resolve
from training.recipes import RECIPES


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("plan", "--gpu", "h20", "--num-gpus", "8"), "no such GPU; valid: a100-40gb"),
        (("plan", "--gpu", "h200", "--num-gpus", "7"), "must be a multiple of num_workers 7"),
        (("plan", "--gpu", "l4", "--num-gpus", "1", "--stage", "x"), "there is no stage x"),
        (
            ("train", "--dataset", "d", "--run", "r", "--progressive", "--stage", "stiv_96"),
            "--progressive trains every stage",
        ),
    ],
)
def test_a_mistake_is_one_message(
    arguments: tuple[str, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["stiv", *arguments, "--recipe", "stiv_tiny_96"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert line in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_plan_is_printed_with_the_settings_to_train_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "plan --recipe class_to_video_tiny_48 --gpu l4 --num-gpus 1 --set model.depth=2"
    words += " --set recompute=selective --set average_on_cpu=true"
    monkeypatch.setattr("sys.argv", ["stiv", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "sharding none, over 1 GPUs; recompute selective; EMA in host memory" in out
    settings = out.splitlines()[-1]
    assert settings.startswith("--recipe class_to_video_tiny_48 --set model.depth=2 --set ")
    assert settings.count("recompute") == 1
    for setting in ("recompute=selective", "average_on_cpu=true", "num_workers=1"):
        assert f"--set {setting}" in settings
    assert "--set stages.classes.micro_batch_size=16" in settings
    config = resolve(RECIPES, "class_to_video_tiny_48", shlex.split(settings)[3::2])
    assert (config.model.depth, config.average_on_cpu) == (2, True)
    # Activations at one micro-batch: less with each setting.
    (row,) = (
        line.split()
        for line in out.splitlines()
        if line.startswith("classes") and len(line.split()) == 6
    )
    kept = [float(number) for number in row[2:]]
    assert kept == sorted(kept, reverse=True)
