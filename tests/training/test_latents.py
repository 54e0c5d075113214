"""What lies in a latent shard, and how it is read."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_engine.schema import RECORD_MEMBER
from modeling.conditioning import TextFeatures
from training.config import DataConfig, StageConfig
from training.errors import DataError
from training.latents import (
    LATENTS_MEMBER,
    TEXT_MEMBER,
    LatentRecord,
    bytes_of,
    pack_latents,
    pack_text,
    unpack_text,
)
from training.streaming.buckets import plan_stage
from training.streaming.index import SampleIndex
from training.streaming.loader import BatchLoader
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader


def text_of(num_tokens: int, seed: int) -> TextFeatures:
    """With one token of padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(1, num_tokens + 1, dtype=torch.bool)
    mask[0, -1] = False
    return TextFeatures(
        tokens_BLD=torch.randn(1, num_tokens + 1, 8, generator=generator),
        mask_BL=mask,
        pooled_BD=torch.randn(1, 8, generator=generator),
    )


def test_texts_of_one_length_keep_their_own_numbers() -> None:
    # They share a header, which is parsed once.
    for seed in range(3):
        text, other = text_of(5, seed), text_of(3, 10 + seed)
        data = bytearray(pack_text({"caption": text, "original": other}))
        for name, given, length in (("caption", text, 5), ("original", other, 3)):
            found = unpack_text(data, name)
            assert torch.equal(found.tokens_BLD, given.tokens_BLD[:, :length].half().float())
            assert torch.equal(found.pooled_BD, given.pooled_BD)
            assert found.mask_BL.shape == (1, length)
            assert found.mask_BL.all()


def test_what_is_no_text_is_refused() -> None:
    data = bytearray(pack_text({"caption": text_of(4, 0)}))
    with pytest.raises(DataError, match="text features hold no original"):
        unpack_text(data, "original")
    for damaged in (data[:-2], data + b"xx", data[:20], bytearray(b"\xff" * 64), bytearray()):
        with pytest.raises(DataError, match="text features hold no caption"):
            unpack_text(damaged, "caption")


def test_numbers_read_into_an_array_are_those_that_were_packed() -> None:
    latents = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    data, offset = pack_latents(latents)
    found = np.empty((3, 2, 4, 5), np.float16)
    bytes_of(found)[:] = memoryview(data)[offset:]
    assert np.array_equal(found, latents.half().numpy())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_batch_holds_the_frames_and_texts_of_its_samples(tmp_path: Path, stride: int) -> None:
    packed = {
        f"clip{n}": torch.randn(9, 2, 4, 5, generator=torch.Generator().manual_seed(n))
        for n in range(4)
    }
    texts = {key: text_of(3 + n, n) for n, key in enumerate(packed)}
    write_shard(tmp_path / "a.tar", packed, texts)
    data = DataConfig(height_px=32, width_px=40, sampling_stride=stride)
    stage = StageConfig(
        task="t2v", num_steps=9, batch_size=2, num_frames=4, checkpoint_every_steps=9
    )
    index = SampleIndex.open([tmp_path])
    order = SampleOrder(index, plan_stage(index, stage, data, (1, 1)), (0, "t2v"), stage, data)
    loader = BatchLoader(order, SampleReader(index, data, tmp_path), data)
    seen: set[str] = set()
    for batch in loader.batches(0, 2):
        assert batch.latents_NFCHW is not None
        assert batch.frames_NFHWC is None
        for sample, latents, text in zip(
            batch.samples, batch.latents_NFCHW, batch.texts, strict=True
        ):
            key = sample.clip.clip_id
            assert torch.equal(latents, packed[key][list(sample.frame_indices)].half())
            assert text is not None
            assert torch.equal(text.pooled_BD, texts[key].pooled_BD)
            assert (sample.stride, text.tokens_BLD.shape[1]) == (
                stride,
                3 + list(packed).index(key),
            )
            seen.add(key)
    assert seen == packed.keys()


def test_latents_of_two_autoencoders_are_not_put_into_one_batch(tmp_path: Path) -> None:
    packed = {f"clip{n}": torch.randn(4, channels, 4, 5) for n, channels in enumerate((2, 3))}
    write_shard(tmp_path / "a.tar", packed, {key: text_of(3, 0) for key in packed})
    data = DataConfig(height_px=32, width_px=40, sampling_stride=1, max_skipped_share=0)
    stage = StageConfig(
        task="t2v", num_steps=9, batch_size=2, num_frames=4, checkpoint_every_steps=9
    )
    index = SampleIndex.open([tmp_path])
    order = SampleOrder(index, plan_stage(index, stage, data, (1, 1)), (0, "t2v"), stage, data)
    loader = BatchLoader(order, SampleReader(index, data, tmp_path), data)
    with pytest.raises(DataError, match="with the same autoencoder"):
        next(loader.batches(0, 1))


def write_shard(path: Path, latents: dict[str, Tensor], texts: dict[str, TextFeatures]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, latents_FCHW in latents.items():
            npy, payload_offset = pack_latents(latents_FCHW)
            num_frames, channels, height, width = latents_FCHW.shape
            record = LatentRecord(
                clip_id=key,
                caption=f"the caption of {key}",
                original_caption=None,
                num_frames=num_frames,
                fps=24.0,
                original_height_px=64,
                original_width_px=80,
                subsets=(),
                shape_FCHW=(num_frames, channels, height, width),
                payload_offset=payload_offset,
            )
            members = {
                RECORD_MEMBER: record.to_json().encode(),
                LATENTS_MEMBER: npy,
                TEXT_MEMBER: pack_text({"caption": texts[key]}),
            }
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
