"""Models of the hub, or in a folder of the same form: only safetensors weights, and no code of their own."""

import hashlib
from functools import cache
from pathlib import Path

from data_engine.errors import JobError

MAX_PICTURES = 64
"""That go through a model at once: enough to keep a GPU busy, and few enough for its memory."""

# No pickles: weights that exist only as .bin are refused instead of fetched.
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def model_folder(model: str, revision: str | None) -> Path:
    """The folder of a model on this machine, downloaded first if `model` names a repository.

    Raises:
        JobError: the model is not there, cannot be downloaded, or has no safetensors weights.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _fetch(model, revision)
    if not any(folder.glob("*.safetensors")):
        raise JobError(f"{model} holds no safetensors weights; no other format is read")
    return folder


def best_device() -> str:
    """`cuda` if this process was given a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _fetch(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise JobError(
            f"{model!r} is neither a folder nor a repository that can be downloaded "
            f"({type(error).__name__}); correct the name, connect this machine, or log in to the hub"
        ) from error


def cannot_load(model: str, error: Exception) -> JobError:
    """One line for what transformers says in many."""
    return JobError(f"transformers cannot load {model!r}: {' '.join(str(error).split())[:300]}")


def content_hash(folder: Path) -> str:
    """Of the names and bytes of the files of a model, 12 hexadecimal digits; its place does not matter."""
    files = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
    stats = [(file, file.stat()) for file in files]
    return _hash_files(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


# Weights are large and asked for often; size and time tell whether a file was replaced.
@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for file, _, _ in files:
        with file.open("rb") as stream:
            whole.update(f"{file.name}\0".encode())
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:12]
