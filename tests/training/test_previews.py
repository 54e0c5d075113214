import logging
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.config import PreviewConfig, TrainConfig
from training.loop import prepare_run, train_stage
from training.previews import Previews, PreviewTask, make_previews, preview_warnings
from training.run_directory import RunDirectory

PREVIEWS = PreviewConfig(every_steps=2, prompts=("a square moves", "a circle"))


def test_each_prompt_and_a_held_out_clip_become_a_video_and_a_contact_sheet(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", list(range(9, 21)))
    validation = {"share": 0.5, "every_steps": 2, "batch_size": 2, "num_batches": 1}
    stage = tiny_stage(
        "stiv", num_steps=2, previews=PREVIEWS, sizes_px=((16, 32),), validation=validation
    )
    config, run = tiny_config(stages={"stiv": stage}), tmp_path / "run"
    prepare_run(config, [dataset], run)
    committed: list[tuple[str, int]] = []

    def remember(checkpoint: Path, step: int) -> tuple[int, ...]:
        committed.append((str(checkpoint), step))
        return ()

    train_stage(config, "stiv", [dataset], run, on_commit=remember)
    ((checkpoint, step),) = committed
    assert step == 2
    settings = (config.model_dump_json(), "stiv", (str(dataset),), str(run))
    written = make_previews(PreviewTask(*settings, checkpoint))

    folder = RunDirectory(run).stage("stiv").previews
    names = [
        f"step-000002-{name}{suffix}" for name in ("0", "1", "given") for suffix in (".png", ".mp4")
    ]
    assert written == [str(folder / name) for name in names]
    with av.open(written[1]) as video:
        frames = list(video.decode(video=0))
    # Of the stage, not of the run; small frames are enlarged by a whole factor.
    assert (len(frames), frames[0].width / frames[0].height) == (4, 2.0)
    with Image.open(written[0]) as one, Image.open(written[2]) as other:
        assert one.tobytes() != other.tobytes()
    # A network that has learnt nothing shows noise, but for the frame that it is given.
    with av.open(written[5]) as video:
        first, second = (
            frame.to_ndarray(format="gray") for frame in list(video.decode(video=0))[:2]
        )
    roughness = [abs(frame[:, 1:].astype(int) - frame[:, :-1]).mean() for frame in (first, second)]
    assert roughness[0] < roughness[1]

    fewer = make_previews(PreviewTask(*settings, checkpoint, with_given=False))
    assert [Path(path).name for path in fewer] == names[:4]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("local_ray")
def test_previews_wait_for_each_other_and_hold_their_checkpoints(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second is due while the first is made, the network needs no time to train, and one checkpoint is kept."""
    stage = tiny_stage("t2i", num_checkpoints_kept=1, previews=PREVIEWS)
    config = tiny_config(stages={"t2i": stage})
    prepare_run(config, [dataset], tmp_path)
    previews = Previews(config, "t2i", [dataset], tmp_path)
    train_stage(config, "t2i", [dataset], tmp_path, on_commit=previews.at_checkpoint)
    directory = RunDirectory(tmp_path).stage("t2i")
    kept = sorted(path.name for path in directory.checkpoints.glob("step-*"))
    assert kept == ["step-000002", "step-000004"]
    previews.finish()
    made = sorted(path.name for path in directory.previews.iterdir())
    assert made == [f"step-00000{step}-{prompt}.png" for step in (2, 4) for prompt in (0, 1)]

    # The run is at step 4: nothing is due at 5, and there is no GPU for what is due at 6.
    with_gpu = config_of_gpus(1, num_gpus=1).stages["t2v"]
    without = Previews(
        config.model_copy(update={"stages": {"t2i": with_gpu}}), "t2i", [dataset], tmp_path
    )
    checkpoint = directory.checkpoints / "step-000004"
    with caplog.at_level(logging.WARNING):
        assert without.at_checkpoint(checkpoint, 5) == set()
        assert caplog.text == ""
        assert without.at_checkpoint(checkpoint, 6) == set()
    assert "no preview of step 6: " in caplog.text
    assert "need 1 GPUs together, and the cluster has 0; add GPUs" in caplog.text
    without.finish()


def config_of_gpus(num_workers: int, num_gpus: float, device: str = "cpu") -> TrainConfig:
    previews = PREVIEWS.model_copy(update={"num_gpus": num_gpus})
    stages = {"t2v": tiny_stage("t2v", batch_size=8, previews=previews), "stiv": tiny_stage("stiv")}
    return tiny_config(stages=stages, num_workers=num_workers, device=device)


def test_previews_that_would_not_come_or_take_hours_are_told_before_training() -> None:
    names = ["t2v", "stiv"]
    assert preview_warnings(config_of_gpus(2, 0), names, 0) == []
    assert preview_warnings(config_of_gpus(2, 1, "cuda"), names, 3) == []
    (too_few,) = preview_warnings(config_of_gpus(2, 1, "cuda"), names, 2)
    assert too_few.startswith(
        "stage t2v will have no previews: the workers and the previews need 3 GPUs"
    )
    (slow,) = preview_warnings(config_of_gpus(2, 0, "cuda"), names, 2)
    assert "samples its previews on the CPU" in slow
    assert preview_warnings(config_of_gpus(2, 0, "cuda"), ["stiv"], 2) == []


def test_previews_come_with_checkpoints() -> None:
    with pytest.raises(ValueError, match="must be a multiple of checkpoint_every_steps 4"):
        tiny_stage("t2v", previews=PREVIEWS, checkpoint_every_steps=4)
