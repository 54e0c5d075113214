"""A finished stage as a folder that opens without the trainer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.errors import PretrainedError
from modeling.pretrained import load_pretrained
from tests.training.builders import tiny_config
from training.checkpoint import load_average
from training.errors import TrainError
from training.export import export
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first two stages are finished."""
    run = tmp_path_factory.mktemp("run")
    config = tiny_config()
    prepare_run(config, [dataset], run)
    for stage in ("t2i", "t2v"):
        train_stage(config, stage, [dataset], run)
    return run


def test_the_weights_are_the_averages_of_the_last_finished_stage(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "model")
    result = RunDirectory(run).stage("t2v").result()
    assert result is not None
    expected = load_average(run / result.checkpoint)
    found = load_file(out / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


def test_it_opens_where_the_trainer_cannot_be_imported(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "model")
    code = (
        "import sys; sys.modules.update(training=None, data_engine=None, ray=None)\n"
        "from modeling.pretrained import load_pretrained\n"
        f"opened = load_pretrained({str(out)!r})\n"
        "print(opened.config.task, opened.config.num_frames, opened.autoencoder.name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["t2v", "4", "patch_pca"]


def test_the_card_says_what_it_is_and_holds_the_data_card(run: Path, tmp_path: Path) -> None:
    data_card = tmp_path / "DATA_CARD.md"
    data_card.write_text("Squares that move, drawn for a test.")
    card = (export(run, tmp_path / "model", "t2i", [data_card]) / "README.md").read_text()
    assert card.startswith("# test, stage t2i\n")
    assert "| t2i | t2i | 32x48 | 4 |" in card
    assert "| t2v |" not in card
    assert "Squares that move" in card


def test_it_can_be_written_twice(run: Path, tmp_path: Path) -> None:
    first = load_pretrained(export(run, tmp_path / "model"))
    again = load_pretrained(export(run, tmp_path / "model"))
    ours, theirs = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_what_is_not_finished_or_not_there_costs_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="has no finished stage stiv; train it first"):
        export(run, tmp_path / "model", "stiv")
    with pytest.raises(TrainError, match="has no stage t3v; it has t2i, t2v, stiv"):
        export(run, tmp_path / "model", "t3v")
    with pytest.raises(TrainError, match=r"the data card .* does not exist"):
        export(run, tmp_path / "model", data_cards=[tmp_path / "absent.md"])
    with pytest.raises(PretrainedError, match="holds no model that can be opened"):
        load_pretrained(tmp_path / "absent")


def test_weights_of_another_network_are_refused(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "model")
    other = export(run, tmp_path / "other", "t2i")
    (out / "config.json").write_bytes((other / "config.json").read_bytes())
    with pytest.raises(PretrainedError, match=r"are not those of its config\.json"):
        load_pretrained(out)
