"""`stiv plan` and the options of `stiv train` that choose stages, as a user calls them."""

import pytest

from orchestration.cli import main


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
    monkeypatch.setattr("sys.argv", ["stiv", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "sharding none, over 1 GPUs; recompute none" in out
    assert "--set stages.classes.micro_batch_size=16" in out
