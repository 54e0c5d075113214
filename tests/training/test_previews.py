from pathlib import Path

import av
import pytest
from PIL import Image

from tests.training.builders import tiny_config, tiny_stage
from training.config import PreviewConfig
from training.loop import prepare_run, train_stage
from training.previews import PreviewTask, make_previews
from training.run_directory import RunDirectory

PREVIEWS = PreviewConfig(every_steps=2, prompts=("a square moves", "a circle"))


def test_each_prompt_becomes_a_video_and_a_contact_sheet(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(
        stages={"t2v": tiny_stage("t2v", num_steps=2, previews=PREVIEWS, sizes_px=((16, 32),))}
    )
    prepare_run(config, [dataset], tmp_path)
    committed: list[tuple[str, int]] = []
    train_stage(
        config, "t2v", [dataset], tmp_path, on_commit=lambda p, n: committed.append((str(p), n))
    )
    ((checkpoint, step),) = committed
    assert step == 2
    settings = (config.model_dump_json(), "t2v", (str(dataset),), str(tmp_path))
    written = make_previews(PreviewTask(*settings, checkpoint))

    folder = RunDirectory(tmp_path).stage("t2v").previews
    names = [f"step-000002-{place}{suffix}" for place in (0, 1) for suffix in (".png", ".mp4")]
    assert written == [str(folder / name) for name in names]
    with av.open(written[1]) as video:
        frames = list(video.decode(video=0))
    # Of the stage, not of the run; small frames are enlarged by a whole factor.
    assert (len(frames), frames[0].width / frames[0].height) == (4, 2.0)
    with Image.open(written[0]) as one, Image.open(written[2]) as other:
        assert one.tobytes() != other.tobytes()


def test_previews_come_with_checkpoints() -> None:
    with pytest.raises(ValueError, match="must be a multiple of checkpoint_every_steps 4"):
        tiny_stage("t2v", previews=PREVIEWS, checkpoint_every_steps=4)
