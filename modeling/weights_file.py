"""Weights of a fitted autoencoder as one safetensors file that says what it holds."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modeling.errors import AutoencoderError

_KEY = "autoencoder"


def save_weights(tensors: Mapping[str, Tensor], path: Path, name: str, settings: str = "") -> None:
    """Write tensors, the autoencoder's name and its settings; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    # One entry, because safetensors writes several in an order that differs between processes.
    save_file(contiguous, temporary, metadata={_KEY: f"{name} {settings}".rstrip()})
    temporary.replace(path)


def load_weights(path: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """The tensors and settings that `save_weights` wrote for an autoencoder of this name.

    Raises:
        FileNotFoundError: there is no such file.
        AutoencoderError: the file is not safetensors, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(_KEY, "")
            found_name, _, settings = found.partition(" ")
            if found_name != name:
                raise AutoencoderError(
                    f"{path} holds weights of {found_name!r}, expected {name!r}; point to a file that "
                    f"was saved by the autoencoder {name!r}, or fit it again"
                )
            return {key: file.get_tensor(key) for key in file.keys()}, settings  # noqa: SIM118  # an open file is no mapping
    except SafetensorError as error:
        raise AutoencoderError(f"{path} is not a complete safetensors file: {error}") from error


def check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Raise AutoencoderError that lists every tensor which is missing, unknown or of another shape."""
    wrong = [f"{key} is missing" for key in expected if key not in tensors]
    wrong += [f"{key} is unknown" for key in tensors if key not in expected]
    wrong += [
        f"{key} is {tuple(tensor.shape)}, expected {expected[key]}"
        for key, tensor in tensors.items()
        if key in expected and tuple(tensor.shape) != expected[key]
    ]
    if wrong:
        raise AutoencoderError(f"{path} does not hold the weights it names: {'; '.join(wrong)}")
