"""The script of docs/evaluate.md on small folders in the layout of the data sets that it reads."""

import json
import re
import runpy
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.training.builders import encode_mp4, moving_square
from training.evaluation.clips import ClipRules, Format, choose_clips, read_clip
from training.recipes.ucf101 import UCF101_CLASSES
from training.streaming.index import Clip, SampleIndex
from training.streaming.storage import RangeReader

DOCS = Path(__file__).parents[3] / "docs" / "evaluate.md"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    path = tmp_path / "pack.py"
    path.write_text(block)
    return path


def packed(script: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *sources: Path) -> list[Clip]:
    out = script.parent / f"data-{kind}"
    monkeypatch.setattr(sys, "argv", ["pack.py", kind, str(out), *map(str, sources)])
    runpy.run_path(str(script), run_name="__main__")
    index = SampleIndex.open([out])
    return [index.clip(row) for row in range(len(index))]


def test_msrvtt(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [{"video_id": f"video701{n}", "split": "test" if n else "train"} for n in range(3)]
    sentences = [
        {"video_id": f"video701{n}", "caption": f"{word} of {n}", "sen_id": n}
        for n in range(3)
        for word in ("the first", "the second")
    ]
    annotations = tmp_path / "test_videodatainfo.json"
    annotations.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    for video in videos:
        (tmp_path / f"{video['video_id']}.mp4").write_bytes(encode_mp4(moving_square(5, 0)))
    found = packed(script, monkeypatch, "msrvtt", annotations, tmp_path)
    assert {clip.clip_id: clip.caption for clip in found} == {
        "video7011": "the first of 1",
        "video7012": "the first of 2",
    }


def test_ucf101(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "UCF-101" / "PizzaTossing"
    folder.mkdir(parents=True)
    with av.open(folder / "v_PizzaTossing_g01_c02.avi", mode="w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        for frame in moving_square(20, 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    split = tmp_path / "trainlist01.txt"
    split.write_text("PizzaTossing/v_PizzaTossing_g01_c02.avi 71\n")
    (clip,) = packed(script, monkeypatch, "ucf101", split, folder.parent)
    assert (clip.clip_id, clip.fps) == ("v_PizzaTossing_g01_c02", 25.0)
    assert clip.caption in UCF101_CLASSES
    wanted = Format(num_frames=16, stride=1, height_px=48, width_px=80)
    frames = read_clip(RangeReader(), clip, wanted)
    assert np.abs(frames.astype(float) - moving_square(16, 1)).mean() < 20


def test_moviegen(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = tmp_path / "MovieGenVideoBench"
    videos.mkdir()
    for number in (0, 1, 10):
        (videos / f"{number}.mp4").write_bytes(encode_mp4(moving_square(5, number)))
    prompts = tmp_path / "MovieGenVideoBench.txt"
    prompts.write_text("\n".join(f"prompt {number}" for number in range(11)))
    found = packed(script, monkeypatch, "moviegen", prompts, videos)
    assert {clip.caption: clip.clip_id for clip in found} == {
        f"prompt {n}": str(n) for n in (0, 1, 10)
    }


def test_gso(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "renders" / "a_shoe"
    folder.mkdir(parents=True)
    for number, view in enumerate(views):
        Image.fromarray(view).save(folder / f"{number}.png")
    packed(script, monkeypatch, "gso", folder.parent)
    wanted = Format(num_frames=7, stride=1, height_px=32, width_px=32)
    index = SampleIndex.open([tmp_path / "data-gso"])
    (clip,) = choose_clips(index, 1, wanted, 0, rules=ClipRules(needs_caption=False))
    np.testing.assert_array_equal(read_clip(RangeReader(), clip, wanted), views)
