"""How one clip lies in a latent shard: what `encode.py` writes and the loader reads.

KEY.latents.npy        float16, frames x channels x height x width, so that some frames are one stretch of bytes
KEY.text.safetensors   of each caption `N.tokens` (L x D, float16) and `N.pooled` (D, float32)
KEY.json               LatentRecord, which also says where in that file they lie, so that nobody has to parse it to train
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modeling.conditioning import TextFeatures
from training.errors import DataError

LATENTS_MEMBER = "latents.npy"
TEXT_MEMBER = "text.safetensors"
FORMAT_VERSION = 2
LATENT_DTYPE = np.dtype("<f2")
_PLACES = ("tokens_offset", "num_tokens", "pooled_offset")
POOLED_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedCaption:
    """One caption of a clip, and where its features lie in the safetensors file."""

    text: str
    source: str
    """As `data_engine.schema.Caption.source`."""
    tokens_offset: int
    num_tokens: int
    pooled_offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentRecord:
    """The facts of one encoded clip; what micro-conditions derive from is that of the source."""

    clip_id: str
    captions: tuple[EncodedCaption, ...]
    text_width: int
    pooled_text_width: int
    num_frames: int
    fps: float
    original_height_px: int
    original_width_px: int
    subsets: tuple[str, ...]
    shape_FCHW: tuple[int, int, int, int]
    payload_offset: int
    """Where the numbers begin in the npy file."""
    format_version: int = FORMAT_VERSION

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.shape_FCHW[1:]) * LATENT_DTYPE.itemsize

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> "LatentRecord":
        """Parse a record.

        Raises:
            DataError: it is of another version, has other fields, or has captions without features.
        """
        values: dict[str, Any] = json.loads(text)
        if values.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"latents have format_version {values.get('format_version')!r}, this code reads "
                f"{FORMAT_VERSION}; encode them again"
            )
        if values.keys() != {field.name for field in fields(cls)}:
            raise DataError(f"latent record has the fields {sorted(values)}; encode it again")
        values["subsets"], values["shape_FCHW"] = (
            tuple(values["subsets"]),
            tuple(values["shape_FCHW"]),
        )
        numbers = [c[n] for c in values["captions"] for n in _PLACES]
        if not all(isinstance(number, int) for number in numbers):
            raise DataError(f"the features of a caption lie at {numbers}, which are no places")
        values["captions"] = tuple(EncodedCaption(**caption) for caption in values["captions"])
        return cls(**values)

    def check_texts(self, size_bytes: int) -> None:
        """See that the features of all captions lie in a file of this size.

        Raises:
            DataError: they do not.
        """
        for caption in self.captions:
            tokens_bytes = caption.num_tokens * self.text_width * LATENT_DTYPE.itemsize
            ends = (
                caption.tokens_offset + tokens_bytes,
                caption.pooled_offset + self.pooled_text_width * POOLED_DTYPE.itemsize,
            )
            starts = (caption.tokens_offset, caption.pooled_offset, caption.num_tokens - 1)
            if min(starts) < 0 or max(ends) > size_bytes:
                raise DataError("the features of a caption do not lie in its text file")


def pack_latents(latents_FCHW: Tensor) -> tuple[bytes, int]:
    """An npy file, and where its numbers begin."""
    array = np.ascontiguousarray(latents_FCHW.float().cpu().numpy().astype(LATENT_DTYPE))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    data = buffer.getvalue()
    return data, len(data) - array.nbytes


def bytes_of(numbers: NDArray[Any]) -> memoryview:
    """The bytes of an array that is read into."""
    return numbers.reshape(-1).view(np.uint8).data


def pack_text(
    captions: Sequence[tuple[str, str, TextFeatures]],
) -> tuple[bytes, tuple[EncodedCaption, ...]]:
    """A safetensors file, and what is in it. Captions are (text, source, features of a batch of one); padding is left away."""
    tensors: dict[str, Tensor] = {}
    for number, (_, _, features) in enumerate(captions):
        tokens_LD = features.tokens_BLD[0][features.mask_BL[0]]
        tensors[f"{number}.tokens"] = tokens_LD.half().cpu().contiguous()
        tensors[f"{number}.pooled"] = features.pooled_BD[0].float().cpu().contiguous()
    data = safetensors.torch.save(tensors)
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    places = tuple(
        EncodedCaption(
            text=text,
            source=source,
            tokens_offset=start + header[f"{number}.tokens"]["data_offsets"][0],
            num_tokens=header[f"{number}.tokens"]["shape"][0],
            pooled_offset=start + header[f"{number}.pooled"]["data_offsets"][0],
        )
        for number, (text, source, _) in enumerate(captions)
    )
    return data, places


@dataclass(frozen=True, slots=True)
class PackedTexts:
    """The features of some captions, without padding."""

    tokens_TD: Tensor
    """Of all one after the other; float16."""
    lengths: tuple[int, ...]
    pooled_ND: Tensor

    def padded(self) -> TextFeatures:
        """As a batch; tokens beyond the end of a text are zero and masked."""
        tokens_BLD = pad_sequence(
            list(self.tokens_TD.float().split(self.lengths)), batch_first=True
        )
        places_L = torch.arange(tokens_BLD.shape[1])
        mask_BL = places_L < torch.tensor(self.lengths)[:, None]
        return TextFeatures(tokens_BLD=tokens_BLD, mask_BL=mask_BL, pooled_BD=self.pooled_ND)
