"""The published networks at random weights, in the layout of their files."""

import json
from pathlib import Path
from unittest.mock import patch

import open_clip
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as published


class I3DLike(nn.Module):
    """The calling convention of the shared TorchScript file; the features are the range of its input."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert (rescale, resize, return_features) == (False, False, True)
        assert (x.shape[1], x.shape[3], x.shape[4]) == (3, 224, 224)
        return torch.stack([x.amin(), x.amax(), torch.tensor(float(x.shape[2]))])[None]


class I3DMeans(nn.Module):
    """The same, with the mean colour of each quarter of its input."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert (rescale, resize, return_features) == (False, False, True)
        return x.unflatten(3, [2, 112]).unflatten(5, [2, 112]).mean(dim=[2, 4, 6]).flatten(1)


class C3DLike(nn.Module):
    """The calling convention of the shared TorchScript file: bytes at any size, probabilities out."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        assert x.shape[1:3] == (3, 16)
        return torch.softmax(x.float().mean(dim=[2, 3, 4]), dim=1)


def save_script(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def random_inception_2015() -> dict[str, Tensor]:
    """Of the layout that torch-fidelity publishes. Its class cannot be made without weights: it takes its own."""

    def own(network: published.FeatureExtractorInceptionV3, *_: object, **__: object) -> None:
        """Leaves the weights at random."""

    with (
        patch.object(published, "load_state_dict_from_url", return_value={}),
        patch.object(published.FeatureExtractorInceptionV3, "load_state_dict", own),
    ):
        network = published.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    return network.state_dict()


def tiny_clip(folder: Path, name: str) -> Path:
    """The random weights of a small CLIP, which is registered under the name."""
    sizes = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    texts = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": sizes, "text_cfg": texts}
    registered = folder / "open_clip"
    registered.mkdir()
    (registered / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(registered)
    path = folder / f"{name}.pt"
    torch.save(open_clip.create_model(name).state_dict(), path)
    return path
