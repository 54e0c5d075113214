"""Clips encoded once: the same numbers as encoding them while training, and nothing done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from data_engine.schema import Caption
from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.config import TrainConfig
from training.encoders import BatchEncoder, fit_autoencoder, load_encoders
from training.encoding import read_receipt, tar_path, write_latents
from training.errors import DataError, TrainError
from training.latent_sets import Encoding, adopt_encoders, claim
from training.step import TrainBatch
from training.streaming.buckets import Bucket, plan_stage
from training.streaming.index import SampleIndex
from training.streaming.loader import BatchLoader
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader

pytestmark = pytest.mark.slow

SIZE = Bucket(1, 32, 48)
CPU = torch.device("cpu")


def write_part(dataset: Path, folder: Path, key: str = "0" * 16) -> tuple[SampleIndex, TrainConfig]:
    """The clips of a data set in one shard of latents, as `encode` writes it."""
    config = tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    index = SampleIndex.open([dataset])
    reader = SampleReader(index, config.data, folder / "frames")
    autoencoder = folder / "autoencoder.safetensors"
    if not autoencoder.exists():
        fit_autoencoder(config, index, reader, autoencoder)
    encoders = load_encoders(config, autoencoder, CPU)
    clips = ((index.clip(row), SIZE) for row in range(len(index)))
    write_latents(folder, key, clips, reader, encoders, CPU)
    return index, config


def batches(index: SampleIndex, config: TrainConfig, autoencoder: Path) -> list[TrainBatch]:
    """Of the first steps of a stage."""
    stage = tiny_stage("stiv")
    plan = plan_stage(index, stage, config.data, (2, 2))
    order = SampleOrder(index, plan, (0, "stiv"), stage, config.data)
    reader = SampleReader(index, config.data, autoencoder.parent / "frames")
    encoder = BatchEncoder(load_encoders(config, autoencoder, CPU), CPU)
    return [encoder.encode(b) for b in BatchLoader(order, reader, config.data).batches(0, 6)]


def test_latents_are_those_that_training_would_encode(dataset: Path, tmp_path: Path) -> None:
    """To half precision; captions, given frames and micro-conditions exactly."""
    index, config = write_part(dataset, tmp_path)
    autoencoder = tmp_path / "autoencoder.safetensors"
    latents = SampleIndex.open([tar_path(tmp_path, "0" * 16)])
    assert {latents.clip(row).media for row in range(len(latents))} == {"latents"}
    decoded = batches(index, config, autoencoder)
    cached = batches(latents, config, autoencoder)
    mixed = batches(SampleIndex.open([dataset, tmp_path]), config, autoencoder)
    for one, other in zip(decoded, cached, strict=True):
        assert torch.allclose(one.latents_BCFHW, other.latents_BCFHW, atol=5e-3)
        assert not torch.equal(one.latents_BCFHW, torch.zeros_like(one.latents_BCFHW))
        ours, theirs = one.conditions, other.conditions
        assert torch.equal(ours.given_BF, theirs.given_BF)
        assert torch.equal(ours.micro.original_size_B2, theirs.micro.original_size_B2)
        assert torch.equal(ours.micro.crop_top_left_B2, theirs.micro.crop_top_left_B2)
        assert torch.equal(ours.text.mask_BL, theirs.text.mask_BL)
        assert torch.allclose(
            ours.text.tokens_BLD * ours.text.mask_BL[..., None], theirs.text.tokens_BLD, atol=2e-3
        )
        assert torch.allclose(ours.text.pooled_BD, theirs.text.pooled_BD)
    assert all(batch.latents_BCFHW.shape == (2, 4, 4, 4, 6) for batch in mixed)


def test_a_batch_of_clips_and_latents_stays_in_order(dataset: Path, tmp_path: Path) -> None:
    """Of the same clips, each in both forms, so that both must give the same numbers."""
    write_part(dataset, tmp_path)
    config = tiny_config()
    both = SampleIndex.open([dataset, tmp_path])
    stage = tiny_stage("t2v", batch_size=8)
    plan = plan_stage(both, stage, config.data, (2, 2))
    order = SampleOrder(both, plan, (0, "t2v"), stage, config.data)
    reader = SampleReader(both, config.data, tmp_path / "frames")
    encoders = load_encoders(config, tmp_path / "autoencoder.safetensors", CPU)
    (loaded,) = BatchLoader(order, reader, config.data).batches(0, 1)
    media = [sample.clip.media for sample in loaded.samples]
    assert set(media) == {"video", "latents"}
    batch = BatchEncoder(encoders, CPU).encode(loaded)
    videos = {both.clip(row).clip_id: both.clip(row) for row in range(6)}
    for place, sample in enumerate(loaded.samples):
        clip = videos[sample.clip.clip_id]
        frames = torch.from_numpy(reader.frames(clip, sample.frame_indices, loaded.bucket))
        expected = encoders.autoencoder.encode(frames[None])[0]
        assert torch.allclose(batch.latents_BCFHW[place], expected, atol=5e-3)


def test_every_caption_of_a_clip_is_encoded_and_shown_by_weight(tmp_path: Path) -> None:
    texts = {"template": "a square", "vlm": "a small square wanders to the right", "original": "x"}
    captions = tuple(Caption(text=t, source=s, model="test") for s, t in texts.items())
    data = write_dataset(tmp_path / "data", [12] * 4, captions=captions)
    write_part(data, tmp_path / "out")
    config, stage = tiny_config(), tiny_stage("t2v")
    weights = {"vlm": 1.0, "original": 1.0}
    weighted = config.data.model_copy(update={"caption_weights": weights})
    latents = SampleIndex.open([tar_path(tmp_path / "out", "0" * 16)])
    assert latents.clip(0).captions == tuple(texts.values())
    encoders = load_encoders(config, tmp_path / "out" / "autoencoder.safetensors", CPU)
    order = SampleOrder(
        latents, plan_stage(latents, stage, weighted, (2, 2)), (0, "t2v"), stage, weighted
    )
    loader = BatchLoader(order, SampleReader(latents, weighted, tmp_path), weighted)
    shown: set[str] = set()
    for loaded in loader.batches(0, 8):
        assert loaded.texts is not None
        for sample, pooled_D in zip(loaded.samples, loaded.texts.pooled_ND, strict=True):
            assert torch.equal(pooled_D, encoders.text.encode([sample.caption]).pooled_BD[0])
            shown.add(sample.caption)
    assert shown == {texts["vlm"], texts["original"]}


def test_the_same_clips_give_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_part(dataset, tmp_path / name)
    a, b = (tar_path(tmp_path / name, "0" * 16).read_bytes() for name in ("a", "b"))
    assert a == b


def test_a_clip_that_cannot_be_read_is_in_the_receipt(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [10, 10, 10])
    clip = SampleIndex.open([dataset]).clip(1)
    data = bytearray(Path(clip.location).read_bytes())
    # The header is whole, so that the autoencoder can be fitted on the other clips.
    write_part(dataset, tmp_path / "whole")
    data[clip.offset : clip.offset + clip.size_bytes] = bytes(clip.size_bytes)
    Path(clip.location).write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    fitted = tmp_path / "whole" / "autoencoder.safetensors"
    (out / fitted.name).write_bytes(fitted.read_bytes())
    write_part(dataset, out)
    receipt = read_receipt(out, "0" * 16)
    assert receipt is not None
    assert list(receipt.failed) == [clip.clip_id]
    assert "not a readable video" in receipt.failed[clip.clip_id]
    assert len(receipt.entry.samples) == 2
    tar_path(out, "0" * 16).write_bytes(b"cut off")
    assert read_receipt(out, "0" * 16) is None


def test_a_run_takes_over_the_autoencoder_of_its_latents(tmp_path: Path) -> None:
    config = tiny_config()
    out, mine = tmp_path / "out", tmp_path / "mine.safetensors"
    out.mkdir()
    (out / "latents.json").write_text("{}")
    (out / "autoencoder.safetensors").write_bytes(b"weights")
    encoding = Encoding(
        encoders=config.encoders,
        latent_channels=4,
        sizes_px=((32, 48),),
        autoencoder_sha256="3689e6fd8e8a46d6aec2fef5ac3ab7c6f1b3a8ae2c4d4ca1f94a7ed2e1d8f1aa",
    )
    claim(out, encoding)
    with pytest.raises(TrainError, match="made by another autoencoder"):
        adopt_encoders(config, [str(out)], mine)
    assert mine.read_bytes() == b"weights"
    other = config.encoders.model_copy(update={"text_encoder": "t5", "text_encoder_model": "x"})
    with pytest.raises(TrainError, match=r"text_encoder is 'minilm' there and 't5' in the run"):
        adopt_encoders(config.model_copy(update={"encoders": other}), [str(out)], mine)
    with pytest.raises(TrainError, match=r"another encoding: sizes_px is"):
        claim(out, encoding.model_copy(update={"sizes_px": ((64, 64),)}))
    (out / "encoding.json").unlink()
    with pytest.raises(DataError, match="encode them again"):
        adopt_encoders(config, [str(out)], mine)


_ENCODE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from orchestration.ray_session import ray_session
from data_engine.schema import Caption
from tests.training.builders import tiny_config
from training import encode
encode.CLIPS_PER_SHARD = 2
with ray_session():
    result = encode.encode(tiny_config(), sys.argv[2:], Path(sys.argv[1]))
print(json.dumps(asdict(result), default=str))
"""


def start(out: Path, *datasets: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", _ENCODE, str(out), *map(str, datasets)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def undisturbed(dataset: Path, out: Path) -> dict[str, bytes]:
    """The tars of `out` as they are when they are written in this process, one after the other."""
    index, config = SampleIndex.open([dataset]), tiny_config()
    rows = {index.clip(row).clip_id: index.clip(row) for row in range(len(index))}
    encoders = load_encoders(config, out / "autoencoder.safetensors", CPU)
    folder = out.parent / "undisturbed"
    folder.mkdir()
    reader = SampleReader(index, config.data, folder)
    for path in out.glob("latents-*.tar"):
        key = path.stem.removeprefix("latents-")
        receipt = read_receipt(out, key)
        assert receipt is not None
        clips = [(rows[sample.clip_id], SIZE) for sample in receipt.entry.samples]
        write_latents(folder, key, clips, reader, encoders, CPU)
    return {tar.name: tar.read_bytes() for tar in folder.glob("*.tar")}


@pytest.mark.ray
def test_a_killed_job_goes_on_and_new_clips_are_added(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "first", [12] * 12)
    more = write_dataset(tmp_path / "more", [12] * 2)
    out = tmp_path / "out"
    killed = start(out, first)
    deadline_s = time.monotonic() + 200
    while not list(out.glob("latents-*.json")):
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()

    result = finish(start(out, first))
    assert (result["num_encoded"], result["num_failed"], result["num_shards"]) == (12, 0, 6)
    assert result["num_shards_written"] < 6
    before = {tar.name: (tar.stat().st_mtime_ns, tar.read_bytes()) for tar in out.glob("*.tar")}
    assert {name: data for name, (_, data) in before.items()} == undisturbed(first, out)

    grown = finish(start(out, first, more))
    assert (grown["num_encoded"], grown["num_shards_written"]) == (14, 1)
    after = {tar.name: (tar.stat().st_mtime_ns, tar.read_bytes()) for tar in out.glob("*.tar")}
    assert {name: after[name] for name in before} == before
    assert len(SampleIndex.open([out])) == 14
