"""LPIPS against the public interface of torchmetrics, which finds the same weights in torch's own cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision.models import AlexNet_Weights, alexnet

from training.errors import EvaluationError
from training.evaluation.perceptual import Lpips


def test_distances_are_those_of_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    weights = cache / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
    torch.save(alexnet().state_dict(), weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    random = np.random.default_rng(0)
    # More than are passed through the network at once.
    made, real = random.integers(0, 256, (2, 18, 64, 96, 3), dtype=np.uint8)
    found = Lpips(weights).distances(made, real)

    def scaled(frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1

    expected = learned_perceptual_image_patch_similarity(
        scaled(made), scaled(real), net_type="alex"
    )
    assert found.shape == (18,)
    assert found.mean() == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_array_equal(Lpips(weights).distances(real[:2], real[:2]), [0.0, 0.0])


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.pth"
    with pytest.raises(EvaluationError, match=r"give the weights of .*alexnet-owt-7be5be79\.pth"):
        Lpips(path)
    for content in ({}, {"features.0.weight": torch.zeros(1)}):
        torch.save(content, path)
        with pytest.raises(EvaluationError, match="does not hold the weights of AlexNet"):
            Lpips(path)
    path.write_bytes(b"no weights")
    with pytest.raises(EvaluationError, match="does not hold the weights of AlexNet"):
        Lpips(path)
