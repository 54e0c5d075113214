"""Pictures with texts, as img2dataset writes them, to latents, to an image model, and among videos."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.encode import encode
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.streaming.buckets import plan_stage
from training.streaming.index import SampleIndex
from training.streaming.order import SampleOrder
from training.telemetry import read_metrics

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray warns of its own deprecations, in its own code.
    pytest.mark.filterwarnings("default"),
]

PICTURES = {
    "astronaut.png": "an astronaut in an orange suit smiles in front of a flag",
    "chelsea.png": "a tabby cat looks past the camera",
    "coffee.png": "a cup of coffee on a wooden table",
    "rocket.jpg": "a rocket stands on its pad before dawn",
    "hubble_deep_field.jpg": "many galaxies in the deep field",
    "retina.jpg": "a retina with its vessels",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that img2dataset leaves: a tar, a table of it, and statistics. One picture has no text."""
    folder = tmp_path_factory.mktemp("pictures")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, (name, text) in enumerate(PICTURES.items()):
            with Image.open(Path(skimage.data.__file__).parent / name) as opened:
                picture, original = opened.convert("RGB"), opened.size
            picture.thumbnail((128, 128))
            packed = io.BytesIO()
            picture.save(packed, "JPEG")
            key = f"{number:09d}"
            facts = {
                "key": key,
                "caption": text,
                "url": f"https://example.org/{name}",
                "status": "success",
                "width": picture.width,
                "height": picture.height,
                "original_width": original[0],
                "original_height": original[1],
                "sha256": "0" * 64,
            }
            members = {"jpg": packed.getvalue(), "json": json.dumps(facts).encode()}
            members |= {"txt": b"" if name == "retina.jpg" else text.encode()}
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (folder / "00000_stats.json").write_text("{}")
    (folder / "00000.parquet").write_bytes(b"PAR1")
    return folder


@pytest.mark.usefixtures("local_ray")
def test_pictures_are_encoded_trained_on_and_mixed_with_videos(
    pictures: Path, tmp_path: Path
) -> None:
    config = tiny_config(stages={"t2i": tiny_stage("t2i", num_steps=6)})
    latents = tmp_path / "latents"
    result = encode(config, [pictures], latents)
    assert (result.num_encoded, result.num_without_caption, result.num_failed) == (5, 1, 0)
    index = SampleIndex.open([latents])
    clips = {clip.caption: clip for clip in map(index.clip, range(len(index)))}
    cat = clips[PICTURES["chelsea.png"]]
    assert (cat.media, cat.num_frames, cat.caption_sources) == ("latents", 1, ("original",))
    assert (cat.original_height_px, cat.original_width_px) == (300, 451)

    run = tmp_path / "run"
    prepare_run(config, [latents], run)
    train_stage(config, "t2i", [latents], run)
    losses = [line["loss"] for line in read_metrics(RunDirectory(run).stage("t2i").metrics)]
    assert len(losses) == 6
    assert losses[-1] < losses[0]

    # In a video stage, where one sample in four is a single frame, three frames in ten of a picture of their own.
    squares = write_dataset(tmp_path / "squares", [30] * 8)
    both = SampleIndex.open([squares, latents])
    data = config.data.model_copy(update={"dataset_weights": (7.0, 3.0)})
    stage = tiny_stage("t2v", batch_size=8, image_share=0.25)
    order = SampleOrder(both, plan_stage(both, stage, data, (1, 2)), (0, "t2v"), stage, data)
    frames = [
        (order.bucket(step)[0].num_frames, order.sample(step, place).clip.media)
        for step in range(400)
        for place in range(8)
    ]
    singles = [media for count, media in frames if count == 1]
    assert len(singles) / len(frames) == pytest.approx(0.25, abs=0.01)
    assert {media for count, media in frames if count > 1} == {"video"}
    assert singles.count("latents") / len(singles) == pytest.approx(0.3, abs=0.02)
