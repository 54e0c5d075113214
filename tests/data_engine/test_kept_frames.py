"""How many frames of a clip are kept, and who may ask for how many."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from data_engine.config import DataEngineConfig, DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.sources.listing import local_source
from tests.videos import frames_of, moving_texture, write_video


def test_as_many_frames_are_kept_as_the_configuration_says(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of([(moving_texture(1, speed_px=1), 96)]), fps=24)
    source = probe(local_source(path), ProbeConfig())
    for count in (2, 3, 8):
        decode = DecodeConfig(frames_per_clip=count)
        done = cut_source(source, ShotConfig(), decode, num_threads=1)
        (clip,) = done.clips
        times_s = [frame.time_s for frame in done.frames]
        assert len(times_s) == count
        assert times_s == sorted(set(times_s))
        assert (times_s[0], times_s[-1]) == (0.0, clip.end_s - 0.5)


@pytest.mark.parametrize("name", ["captions", "hallucination"])
def test_nobody_asks_for_more_frames_than_are_kept(name: str) -> None:
    asking = {name: {"num_frames": 8}}
    DataEngineConfig.model_validate({"decode": {"frames_per_clip": 8}, **asking})
    with pytest.raises(
        ValidationError, match=rf"{name}.num_frames is 8, .* set decode.frames_per_clip to 8"
    ):
        DataEngineConfig.model_validate(asking)
