"""The chain on two Ray Train workers. One test, because Ray Train takes long to start."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from modeling.errors import PretrainedError
from modeling.settings import ConvSettings
from tests.training.builders import tiny_config
from training.chain import MetricsTail
from training.config import EncoderConfig, PreviewConfig
from training.errors import CheckpointError, TrainError, WorkerError
from training.launch import failure_of, fit


@pytest.mark.slow
def test_fit_asks_for_ray() -> None:
    # In a process of its own: here, other tests may have started Ray already.
    code = (
        "from pathlib import Path; from training.launch import fit; from training.recipes import demo_tiny\n"
        "fit(demo_tiny(), [], Path('run'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        "TrainError: Ray is not running in this process; call ray.init() before fit()" in ran.stderr
    )


def test_a_followed_file_gives_each_line_once_and_starts_over_when_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.new_lines() == []
    path.write_text('{"step": 1}\n{"step": 2')
    assert tail.new_lines() == [{"step": 1}]
    with path.open("a") as file:
        file.write('}\n{"step": 3}\n')
    assert tail.new_lines() == [{"step": 2}, {"step": 3}]
    (tmp_path / "new").write_text('{"step": 1}\n')
    (tmp_path / "new").replace(path)
    assert tail.new_lines() == [{"step": 1}]


@pytest.mark.parametrize("mistake", [CheckpointError("is damaged"), PretrainedError("is damaged")])
def test_a_mistake_is_told_also_where_other_workers_died_of_it(mistake: Exception) -> None:
    raised = RuntimeError("in a worker")
    raised.__cause__ = mistake
    found = failure_of("t2i", WorkerGroupError("two failed", {0: ActorDiedError(), 1: raised}))
    assert type(found) is TrainError
    assert str(found) == "stage t2i failed: is damaged"


def test_a_worker_that_died_is_no_mistake() -> None:
    broken = RuntimeError("connection closed by peer")
    found = failure_of("t2i", WorkerGroupError("two failed", {0: broken, 1: ActorDiedError()}))
    assert type(found) is WorkerError
    assert str(found) == "stage t2i failed: RuntimeError: connection closed by peer"
    assert type(failure_of("t2i", ControllerError(RuntimeError("no room")))) is WorkerError


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("local_ray")
def test_two_workers_train_the_chain_resume_it_and_then_rest(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    conv = ConvSettings(width=16, num_decoder_blocks=1, num_steps=3, batch_size=2, crop_px=16)
    encoders = EncoderConfig(autoencoder="conv", conv=conv, text_encoder="minilm")
    config = tiny_config(num_workers=2, encoders=encoders)
    previews = PreviewConfig(every_steps=2, prompts=("a square moves",))
    stiv = config.stages["stiv"].model_copy(update={"previews": previews})
    config = config.model_copy(update={"stages": {**config.stages, "stiv": stiv}})
    seen: list[tuple[str, int, int]] = []
    result = fit(
        config,
        [dataset],
        run,
        on_progress=lambda stage, step, num_steps, loss: seen.append((stage, step, num_steps)),
    )
    assert [stage.stage for stage in result.stages] == ["t2i", "t2v", "stiv"]
    assert all((run / stage.checkpoint).is_dir() for stage in result.stages)
    assert seen[:3] == [("autoencoder", step, 3) for step in range(1, 4)]
    assert seen[3:] == [(stage, step, 4) for stage in config.stages for step in range(1, 5)]

    made = {path.suffix for path in (run / "stiv" / "previews").iterdir()}
    assert made == {".mp4", ".png"}

    # As if the last stage had been killed after its checkpoint of step 4, before its result.
    (run / "stiv" / "result.json").unlink()
    with pytest.raises(TrainError, match="pass --resume"):
        fit(config, [dataset], run)
    again = fit(config, [dataset], run, resume=True)
    assert again.stages[:2] == result.stages[:2]
    assert again.stages[2].last_loss == result.stages[2].last_loss

    written = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert fit(config, [dataset], run) == again
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == written
    assert json.loads((run / "config.json").read_text())["train"]["num_workers"] == 2
    shutil.rmtree(run)
