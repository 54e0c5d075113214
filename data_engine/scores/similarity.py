"""How well a text fits pictures: both are mapped to unit vectors, and compared by cosine.

Two backends, whose numbers are not comparable, so each has its own score name and its own thresholds.
ConSE is embedded, and joins an ImageNet classifier to a sentence encoder (Norouzi et al., "Zero-Shot
Learning by Convex Combination of Semantic Embeddings", 2014); it knows the nouns of ImageNet, and no
style, count or relation. OpenCLIP is a contrastive model whose weights come from a hub or a file.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_engine.errors import JobError
from data_engine.hub_models import MAX_PICTURES, best_device
from data_engine.scores.classifier import ImageNetClassifier

_TOP_CLASSES = 10


class SimilarityBackend(Protocol):
    """Maps pictures and texts to the same space; rows are float32 of length 1."""

    @property
    def backend(self) -> str:
        """Which model, stored with each score."""
        ...

    @property
    def score_name(self) -> str:
        """The key of its score in `ClipRecord.scores`."""
        ...

    def embed_clips(
        self, clips: Sequence[Sequence[NDArray[np.uint8]]]
    ) -> list[NDArray[np.float32]]:
        """N x D for each clip of N RGB pictures of any size; N is at least 1."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """M x D, for M texts."""
        ...


class SimilarityFactory(Protocol):
    """Makes a backend; each takes from the arguments what it needs."""

    def __call__(
        self, *, classifier: ImageNetClassifier, open_clip_model: str, open_clip_pretrained: str
    ) -> SimilarityBackend: ...


def mean_cosine(images_ND: NDArray[np.float32], text_D: NDArray[np.float32]) -> float:
    """The mean over pictures of the cosine with one text, -1 to 1; all are unit vectors."""
    return float((images_ND @ text_D).mean())


def in_one_go(
    see: Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]],
    clips: Sequence[Sequence[NDArray[np.uint8]]],
) -> list[NDArray[np.float32]]:
    """What `see` makes of the pictures of all clips together, clip by clip."""
    ends = np.cumsum([len(images) for images in clips])
    rows = see([image for images in clips for image in images])
    return np.split(rows, ends[:-1])


def unit_rows(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row scaled to length 1."""
    norms_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return (rows_ND / np.maximum(norms_N1, 1e-12)).astype(np.float32)


class ConSE:
    """Embedded image-text similarity. Cosines are around 0 for unrelated pairs.

    A picture is the mean of the sentence embeddings of its likely classes, weighted by probability. All
    embeddings are taken relative to the mean over the class names, which would hide the differences.
    """

    backend = "embedded:conse-lite0-minilm"
    score_name = "conse_similarity"

    def __init__(self, classifier: ImageNetClassifier) -> None:
        # Imported here, as all that needs torch: the command line must not wait for it.
        from data_engine.scores.minilm import MiniLM

        self._classifier = classifier
        self._sentences = MiniLM()
        labels_KD = self._sentences.embed([f"a photo of a {name}" for name in classifier.labels])
        self._centre_D = labels_KD.mean(axis=0)
        self._labels_KD = labels_KD - self._centre_D

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """N x 384."""
        probabilities_NK = self._classifier.probabilities(images)
        smallest_kept_N1 = np.sort(probabilities_NK, axis=1)[:, -_TOP_CLASSES, None]
        weights_NK = np.where(probabilities_NK >= smallest_kept_N1, probabilities_NK, 0)
        return unit_rows(weights_NK @ self._labels_KD)

    def embed_clips(
        self, clips: Sequence[Sequence[NDArray[np.uint8]]]
    ) -> list[NDArray[np.float32]]:
        # One clip at a time: a batch is no faster on a CPU, and would change the last digits.
        return [self.embed_images(images) for images in clips]

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """M x 384."""
        return unit_rows(self._sentences.embed(texts) - self._centre_D)


def open_clip_checkpoint(model: str, pretrained: str) -> Path:
    """The weights on this machine, downloaded first if `pretrained` is a tag that open_clip knows.

    Raises:
        JobError: open_clip knows no such model or tag, or the weights cannot be downloaded.
    """
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    if model not in open_clip.list_models():
        raise JobError(
            f"open_clip has no model {model!r}; open_clip.list_models() names those it has"
        )
    checkpoint = Path(pretrained)
    if checkpoint.is_file():
        return checkpoint
    known_tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in known_tags:
        raise JobError(
            f"{pretrained!r} is neither a file nor a pretrained tag of {model}; "
            f"its tags are {', '.join(known_tags) or 'none'}"
        )
    try:
        return Path(download_pretrained(get_pretrained_cfg(model, pretrained)))
    except OSError as error:
        raise JobError(
            f"the weights of {model}/{pretrained} are not on this machine and cannot be downloaded; connect it, "
            "set scores.open_clip_pretrained to a checkpoint file, or use scores.similarity=conse"
        ) from error


class OpenCLIP:
    """A contrastive model of open_clip. `pretrained` is a tag that it knows, or a checkpoint file.

    Raises:
        JobError: there is no such model, or its weights cannot be had.
    """

    score_name = "clip_similarity"

    def __init__(self, model: str, pretrained: str) -> None:
        open_clip_checkpoint(model, pretrained)
        import open_clip

        self.backend = open_clip_backend(model, pretrained)
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained) or {}
        # By its name and not by the file: the tag also says how pictures are normalised.
        loaded: Any = open_clip.create_model_from_pretrained(
            model, pretrained=pretrained, force_quick_gelu=bool(tag.get("quick_gelu"))
        )
        self._device = best_device()
        self._model, self._preprocess = loaded[0].eval().to(self._device), loaded[1]
        self._tokenizer: Any = open_clip.get_tokenizer(model)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """N x D, where D is a property of the model; as many at once as `MAX_PICTURES` says."""
        parts = [images[i : i + MAX_PICTURES] for i in range(0, len(images), MAX_PICTURES)]
        return np.concatenate([self._embed_batch(part) for part in parts])

    def _embed_batch(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        import torch
        from PIL import Image

        pixels = torch.stack([self._preprocess(Image.fromarray(image)) for image in images])
        with torch.inference_mode():
            features_ND = self._model.encode_image(pixels.to(self._device))
            return unit_rows(features_ND.float().cpu().numpy())

    def embed_clips(
        self, clips: Sequence[Sequence[NDArray[np.uint8]]]
    ) -> list[NDArray[np.float32]]:
        return in_one_go(self.embed_images, clips)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """M x D; texts longer than the context of the model are cut."""
        import torch

        with torch.inference_mode():
            tokens_ML = self._tokenizer(list(texts)).to(self._device)
            return unit_rows(self._model.encode_text(tokens_ML).float().cpu().numpy())


def open_clip_backend(model: str, pretrained: str) -> str:
    """A file is named by its bytes: its path says nothing to another machine."""
    checkpoint = Path(pretrained)
    if not checkpoint.is_file():
        return f"hub:open_clip/{model}/{pretrained}"
    with checkpoint.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"file:open_clip/{model}/{digest[:12]}"


def _make_conse(
    *, classifier: ImageNetClassifier, open_clip_model: str, open_clip_pretrained: str
) -> SimilarityBackend:
    return ConSE(classifier)


def _make_open_clip(
    *, classifier: ImageNetClassifier, open_clip_model: str, open_clip_pretrained: str
) -> SimilarityBackend:
    return OpenCLIP(open_clip_model, open_clip_pretrained)


SIMILARITY_BACKENDS: dict[str, SimilarityFactory] = {
    "conse": _make_conse,
    "open_clip": _make_open_clip,
}
"""The backends by the name that the configuration uses."""
