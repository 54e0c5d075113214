"""How one clip lies in a latent shard: what `encode.py` writes and the loader reads.

KEY.latents.npy        float16, frames x channels x height x width, so that some frames are one stretch of bytes
KEY.text.safetensors   `caption.tokens` (L x D, float16) and `caption.pooled` (D); `original.*` where the clip has such a caption
KEY.json               LatentRecord
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from modeling.conditioning import TextFeatures
from training.errors import DataError

LATENTS_MEMBER = "latents.npy"
TEXT_MEMBER = "text.safetensors"
FORMAT_VERSION = 1
LATENT_DTYPE = np.dtype("<f2")
_Place = tuple[torch.dtype, int, int, tuple[int, ...]]
"""Type, how many numbers, where they begin after the header, and shape."""
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentRecord:
    """The facts of one encoded clip; what micro-conditions derive from is that of the source."""

    clip_id: str
    caption: str
    original_caption: str | None
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
            DataError: it is of another version or has other fields.
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
        return cls(**values)


def pack_latents(latents_FCHW: Tensor) -> tuple[bytes, int]:
    """An npy file, and where its numbers begin."""
    array = np.ascontiguousarray(latents_FCHW.float().cpu().numpy().astype(LATENT_DTYPE))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    data = buffer.getvalue()
    return data, len(data) - array.nbytes


def bytes_of(latents_FCHW: NDArray[np.float16]) -> memoryview:
    """The bytes of an array that is read into."""
    return latents_FCHW.reshape(-1).view(np.uint8).data


def pack_text(features: Mapping[str, TextFeatures]) -> bytes:
    """Batches of one text, by name; padding is left away."""
    tensors: dict[str, Tensor] = {}
    for name, text in features.items():
        tensors[f"{name}.tokens"] = text.tokens_BLD[0][text.mask_BL[0]].half().cpu().contiguous()
        tensors[f"{name}.pooled"] = text.pooled_BD[0].cpu().contiguous()
    return safetensors.torch.save(tensors)


def unpack_text(data: bytearray, name: str) -> TextFeatures:
    """One of the texts as a batch of one.

    Raises:
        DataError: it is not there, or the bytes are not safetensors.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        layout = _layout(bytes(data[:start]), len(data))
        tokens, pooled = (
            torch.frombuffer(data, dtype=dtype, count=count, offset=start + offset).view(shape)
            for dtype, count, offset, shape in (layout[f"{name}.tokens"], layout[f"{name}.pooled"])
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"text features hold no {name} ({error})") from error
    mask = torch.ones(1, tokens.shape[0], dtype=torch.bool)
    return TextFeatures(
        tokens_BLD=tokens[None].float(), mask_BL=mask, pooled_BD=pooled[None].float()
    )


@lru_cache(maxsize=1024)
def _layout(header: bytes, size_bytes: int) -> dict[str, _Place]:
    """Where the tensors of a safetensors file are. Texts of one length have the same header, so few are parsed.

    Raises:
        SafetensorError: the header is damaged, or does not fit the size of the file.
    """
    # Judged by the library itself, with zeros for the numbers.
    safetensors.deserialize(header + bytes(max(0, size_bytes - len(header))))
    facts: dict[str, Any] = json.loads(header[8:])
    facts.pop("__metadata__", None)
    return {
        name: (_DTYPES[t["dtype"]], math.prod(t["shape"]), t["data_offsets"][0], tuple(t["shape"]))
        for name, t in facts.items()
    }
