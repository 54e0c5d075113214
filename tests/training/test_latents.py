"""What lies in a latent shard, and how it is read."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
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


def test_the_record_says_where_each_text_lies() -> None:
    given = [text_of(5, 0), text_of(3, 1), text_of(9, 2)]
    data, captions = pack_text([(f"text {n}", "vlm", text) for n, text in enumerate(given)])
    whole = load(data)
    for number, (caption, text) in enumerate(zip(captions, given, strict=True)):
        num_bytes = caption.num_tokens * 8 * 2
        tokens = np.frombuffer(data, "<f2", num_bytes // 2, caption.tokens_offset).reshape(-1, 8)
        pooled = np.frombuffer(data, "<f4", 8, caption.pooled_offset)
        assert np.array_equal(tokens, text.tokens_BLD[0, :-1].half().numpy())
        assert np.array_equal(tokens, whole[f"{number}.tokens"].numpy())
        assert np.array_equal(pooled, text.pooled_BD[0].numpy())


@pytest.mark.parametrize(
    "change",
    [
        {"tokens_offset": 10**9},
        {"pooled_offset": -1},
        {"num_tokens": 0},
        {"num_tokens": 10**9},
        {"tokens_offset": 1.5},
    ],
)
def test_a_record_that_leads_out_of_its_file_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write_shard(
        tmp_path / "a.tar", {"clip": torch.randn(4, 2, 4, 5)}, {"clip": text_of(3, 0)}, change
    )
    with pytest.raises(DataError, match="the features of a caption"):
        SampleIndex.open([tmp_path])


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
        assert batch.texts is not None
        texts_found = batch.texts.padded()
        for number, (sample, latents) in enumerate(
            zip(batch.samples, batch.latents_NFCHW, strict=True)
        ):
            key = sample.clip.clip_id
            assert torch.equal(latents, packed[key][list(sample.frame_indices)].half())
            length = 3 + list(packed).index(key)
            mask = texts_found.mask_BL[number]
            assert (sample.stride, int(mask.sum())) == (stride, length)
            assert mask[:length].all()
            assert torch.equal(texts_found.pooled_BD[[number]], texts[key].pooled_BD)
            tokens = texts[key].tokens_BLD[0, :length].half().float()
            assert torch.equal(texts_found.tokens_BLD[number, :length], tokens)
            assert not texts_found.tokens_BLD[number, length:].any()
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


def write_shard(
    path: Path,
    latents: dict[str, Tensor],
    texts: dict[str, TextFeatures],
    change: dict[str, Any] | None = None,
) -> None:
    """`change` is of the record's captions."""
    with tarfile.open(path, "w") as tar:
        for key, latents_FCHW in latents.items():
            npy, payload_offset = pack_latents(latents_FCHW)
            num_frames, channels, height, width = latents_FCHW.shape
            packed_text, captions = pack_text([(f"the caption of {key}", "vlm", texts[key])])
            record = LatentRecord(
                clip_id=key,
                captions=tuple(replace(caption, **(change or {})) for caption in captions),
                text_width=8,
                pooled_text_width=8,
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
                TEXT_MEMBER: packed_text,
            }
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
