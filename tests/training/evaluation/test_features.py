"""The published networks, at random weights on disk: what is read, at which size, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import inception_v3
from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

from tests.training.evaluation.networks import (
    C3DLike,
    I3DLike,
    random_inception_2015,
    save_script,
)
from training.errors import EvaluationError
from training.evaluation.features import (
    C3DFeatures,
    ClassFeatures,
    I3DFeatures,
    PooledFrameFeatures,
    VideoMAEFeatures,
    open_features,
)
from training.evaluation.inception import Inception2015Features, InceptionFeatures


def video(num_frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, 20, 24, 3), dtype=np.uint8)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_i3d_is_given_224_px_from_minus_one_to_one(tmp_path: Path) -> None:
    features = I3DFeatures(save_script(I3DLike(), tmp_path / "i3d.pt"))
    white = np.full((12, 20, 24, 3), 255, np.uint8)
    white[0] = 0
    assert features.features([white]) == pytest.approx(np.array([[-1.0, 1.0, 12.0]]))
    assert features.metric == "fvd_i3d"
    with pytest.raises(EvaluationError, match="at least 10"):
        features.features([video(4, 0)])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_file_that_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i3d.pt"
    path.write_bytes(b"not a network")
    with pytest.raises(EvaluationError, match="no TorchScript"):
        I3DFeatures(path)


def test_videomae_takes_its_number_of_frames_from_any_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = VideoMAEModel(config)
    model.save_pretrained(tmp_path)
    processor = VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(tmp_path)
    features = open_features(f"videomae:{tmp_path}")
    assert isinstance(features, VideoMAEFeatures)
    rows = features.features([video(4, 0), video(9, 1)])
    pixels = processor(list(video(4, 0)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.eval()(pixels).last_hidden_state.mean(1)[0].numpy()
    assert rows.shape == (2, 16)
    assert rows[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(EvaluationError, match="neither a folder"):
        VideoMAEFeatures(str(tmp_path / "nowhere"))


def test_inception_gives_pooled_features_and_their_probabilities(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False).eval()
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    features = InceptionFeatures(path)
    frames = video(2, 0)
    rows = features.features([frames])
    assert rows.shape == (2, 2048)
    expected = torch.from_numpy(rows) @ network.fc.weight.T + network.fc.bias
    assert features.probabilities(rows) == pytest.approx(expected.softmax(1).detach().numpy())
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(EvaluationError, match="does not hold the weights"):
        InceptionFeatures(other)


def test_inception_of_2015_is_that_of_torch_fidelity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own extractor is given the file by its own path; the published score takes logits without bias."""
    torch.manual_seed(0)
    path = tmp_path / "inception-2015.pth"
    torch.save(random_inception_2015(), path)
    features = open_features(f"inception-2015:{path}")
    assert isinstance(features, Inception2015Features)
    assert isinstance(features, ClassFeatures)
    assert (features.metric, features.score_name) == ("fid", "inception_score")
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(path),
    )
    frames = video(3, 0)
    pooled, logits = theirs(torch.from_numpy(frames).permute(0, 3, 1, 2))
    rows = features.features([frames])
    np.testing.assert_array_equal(rows, pooled.numpy())
    assert features.probabilities(rows) == pytest.approx(logits.softmax(1).numpy(), abs=1e-6)
    assert features.backend.startswith("torch-fidelity 0.4")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(EvaluationError, match="does not hold the weights of Inception of 2015"):
        Inception2015Features(path)
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    with pytest.raises(EvaluationError, match=r"pip install '\.\[fid\]'"):
        Inception2015Features(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_c3d_gives_the_probabilities_of_the_first_sixteen_frames(tmp_path: Path) -> None:
    features = C3DFeatures(save_script(C3DLike(), tmp_path / "c3d.pt"))
    clip = video(18, 0)
    rows = features.features([clip])
    means = torch.from_numpy(clip[:16]).float().mean(dim=(0, 1, 2))
    assert rows[0] == pytest.approx(means.softmax(0).numpy(), abs=1e-5)
    np.testing.assert_array_equal(features.probabilities(rows), rows)
    assert (features.metric, features.score_name) == (None, "inception_score_c3d")
    with pytest.raises(EvaluationError, match="C3D needs 16"):
        features.features([video(15, 0)])


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"a": Path("code")}, path)
    with pytest.raises(EvaluationError, match="does not hold"):
        InceptionFeatures(path)
    with pytest.raises(EvaluationError, match="does not hold"):
        Inception2015Features(path)


def test_a_still_video_differs_from_one_that_moves() -> None:
    def of_frames(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)

    moving = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 200)])
    still = np.full((2, 4, 4, 3), 100, np.uint8)
    rows = PooledFrameFeatures(of_frames, "mean colour").features([moving, still])
    assert rows.tolist() == [[100] * 3 + [100] * 3, [100] * 3 + [0] * 3]
