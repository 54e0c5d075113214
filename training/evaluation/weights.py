"""Weights of networks from files, without unpickling: TorchScript, or state dicts in torch's safe mode."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import EvaluationError


def best_device() -> torch.device:
    """A GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def digest_of_file(path: Path) -> str:
    """The first twelve digits of its SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def digest_of_model(model: nn.Module) -> str:
    """Twelve digits that change with any weight."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()[:12]


def load_torchscript(path: Path) -> Any:
    """The network of a TorchScript file, on the CPU.

    Raises:
        EvaluationError: the file is missing or holds no TorchScript.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; give the TorchScript file of the network")
    try:
        # It has its own reader: no Python of the file is run.
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise EvaluationError(f"{path} is no TorchScript file ({error})") from error


def read_state(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a state dict, without unpickling anything else.

    Raises:
        EvaluationError: the file is missing or holds something else.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; give the weights of {expected}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, TypeError, EOFError) as error:
        raise other_weights(path, expected, error) from error


def other_weights(path: Path, expected: str, error: Exception) -> EvaluationError:
    """What to raise where a file holds the weights of another network."""
    lines = str(error).splitlines() or [type(error).__name__]
    return EvaluationError(f"{path} does not hold the weights of {expected}: {lines[0]}")
