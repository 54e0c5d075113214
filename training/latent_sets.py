"""A folder of latent shards: what made them, and that a run which trains on them uses the same encoders.

OUT/latents.json              manifest of the shards: hashes, and where each member lies
OUT/encoding.json             Encoding: what decides which numbers lie in the shards
OUT/autoencoder.safetensors   where it was fitted on the clips themselves
OUT/latents-KEY.tar           see `latents.py`; KEY changes with the clips and with the encoding
OUT/latents-KEY.json          its receipt, written last: the tar is whole
OUT/index/                    which clips there are; may be deleted
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.checkpoint import file_sha256, write_json
from training.config import EncoderConfig, FrozenModel, TrainConfig
from training.errors import DataError, TrainError
from training.placement import PLACEMENT_FIELDS
from training.streaming.shards import LATENTS_MANIFEST_NAME
from training.streaming.storage import is_url

ENCODING_NAME = "encoding.json"
AUTOENCODER_NAME = "autoencoder.safetensors"
FORMAT_VERSION = 1


class Encoding(FrozenModel):
    """All that decides which numbers lie in the shards."""

    encoders: EncoderConfig
    latent_channels: int
    sizes_px: tuple[tuple[int, int], ...]
    autoencoder_sha256: str | None
    """Of the fitted autoencoder."""
    format_version: int = FORMAT_VERSION

    def key(self) -> str:
        """Changes with what decides the numbers."""
        return json.dumps({**self.model_dump(mode="json"), "encoders": _identity(self.encoders)})


def claim(folder: Path, wanted: Encoding) -> None:
    """Make this the folder of an encoding, or check that it already is.

    Raises:
        TrainError: it holds latents that other encoders made; the message lists what differs.
    """
    path = folder / ENCODING_NAME
    if not path.exists():
        write_json(path, wanted.model_dump(mode="json"))
        return
    found = read_encoding(folder)
    theirs, ours = ({**dict(e), "encoders": _identity(e.encoders)} for e in (found, wanted))
    differences = [
        f"{name} is {value!r} there and {ours[name]!r} now"
        for name, value in theirs.items()
        if value != ours[name]
    ]
    if differences:
        raise TrainError(
            f"{folder} holds latents of another encoding: {'; '.join(differences)}; choose another --out"
        )


def _identity(encoders: EncoderConfig) -> dict[str, Any]:
    """What decides the numbers, and not how much memory they may take."""
    return encoders.model_dump(mode="json", exclude=PLACEMENT_FIELDS["encoders"])


def read_encoding(folder: Path) -> Encoding:
    """What made the latents of a folder.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    path = folder / ENCODING_NAME
    try:
        found = Encoding.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise DataError(
            f"{path} is not readable as what made these latents ({error}); encode them again"
        ) from error
    if found.format_version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version {found.format_version}, this code reads {FORMAT_VERSION}; encode again"
        )
    return found


def adopt_encoders(config: TrainConfig, datasets: Sequence[str], autoencoder: Path) -> None:
    """Take over the autoencoder that was fitted for latents, and see that all encoders are those of the run.

    Raises:
        TrainError: latents were made by other encoders than the run has.
        DataError: it cannot be seen what made them.
    """
    for name in datasets:
        folder = Path(name)
        if is_url(name) or not (folder / LATENTS_MANIFEST_NAME).exists():
            continue
        encoding = read_encoding(folder)
        theirs, ours = _identity(encoding.encoders), _identity(config.encoders)
        differences = [
            f"encoders.{field} is {value!r} there and {ours[field]!r} in the run"
            for field, value in theirs.items()
            if value != ours[field]
        ]
        if differences:
            raise TrainError(
                f"the latents of {name} were made by other encoders: {'; '.join(differences)}; "
                "encode again, or train with theirs"
            )
        if encoding.autoencoder_sha256 is None:
            continue
        if not autoencoder.exists():
            temporary = autoencoder.with_name(f".{autoencoder.name}.tmp")
            shutil.copyfile(folder / AUTOENCODER_NAME, temporary)
            temporary.replace(autoencoder)
        if file_sha256(autoencoder) != encoding.autoencoder_sha256:
            raise TrainError(
                f"the latents of {name} were made by another autoencoder than {autoencoder}, which this run "
                "has; choose another run directory, or data sets that were encoded together"
            )
