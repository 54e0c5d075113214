"""The whole engine on small real videos, with Ray and the embedded models."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from data_engine.config import DataEngineConfig, FilterConfig, ShardConfig, ShotConfig
from data_engine.filters import ALL_THRESHOLDS
from data_engine.pipeline import curate
from data_engine.ray_rows import Progress, map_rows
from data_engine.report import RunReport
from data_engine.schema import MANIFEST_NAME, ShardManifest
from data_engine.tables import DatasetPaths, load_clips, read_quarantine, read_sources
from data_engine.throughput import read_throughput
from tests.videos import faded, frames_of, moving_texture, write_video

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    # Ray warns of its own deprecations, in its own code.
    pytest.mark.filterwarnings("default"),
]

# The textures of the tests are no photographs: what BRISQUE thinks of them is not the question here.
CONFIG = DataEngineConfig(
    shots=ShotConfig(max_clip_s=2.5),
    filters=FilterConfig(max_brisque=None),
    shards=ShardConfig(short_side_px=90, max_clips=3),
)


def write_sources(folder: Path) -> None:
    still = moving_texture(5, speed_px=0)
    film = [
        (moving_texture(1), 40),
        (still, 40),
        (moving_texture(2), 12),
        (faded(moving_texture(3, 1.0), 120, fade_out=12), 120),
    ]
    write_video(folder / "film one.mp4", frames_of(film), fps=24)
    write_video(folder / "Фильм.v2.mp4", frames_of([(moving_texture(4), 60)]), fps=25)
    (folder / "same.mp4").write_bytes((folder / "Фильм.v2.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video")


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, RunReport]:
    root = tmp_path_factory.mktemp("curated")
    write_sources(root / "sources")
    report = curate(CONFIG, str(root / "sources"), root / "dataset", lambda _: None)
    return root, report


def test_the_counts_add_up(curated: tuple[Path, RunReport]) -> None:
    _, report = curated
    assert report.num_kept + report.num_rejected + report.num_failed == report.num_clips
    assert report.num_sharded_clips == report.num_kept
    assert report.rejected_by == {"too_static": 1, "too_short": 1}
    assert report.num_kept == 4


def test_unreadable_sources_are_quarantined_and_copies_are_named(
    curated: tuple[Path, RunReport],
) -> None:
    root, report = curated
    paths = DatasetPaths(root / "dataset")
    assert report.num_sources == 2
    assert [(q.uri, q.reason) for q in read_quarantine(paths)] == [("broken.mp4", "not_a_video")]
    assert [(s.uri, s.other_uris) for s in read_sources(paths.sources)] == [
        ("film one.mp4", ()),
        ("same.mp4", ("Фильм.v2.mp4",)),
    ]


def test_every_kept_clip_is_in_exactly_one_shard_with_caption_and_scores(
    curated: tuple[Path, RunReport],
) -> None:
    paths = DatasetPaths(curated[0] / "dataset")
    manifest = ShardManifest.from_json((paths.shards / MANIFEST_NAME).read_text())
    members: list[str] = []
    for entry in manifest.shards:
        with tarfile.open(paths.shards / entry.name) as tar:
            members += tar.getnames()
    kept = [clip for clip in load_clips(paths) if clip.status == "kept"]
    assert sorted(members) == sorted(
        f"{c.clip_id}.{e}" for c in kept for e in ("json", "mp4", "txt")
    )
    assert all(clip.captions and clip.score("conse_similarity") is not None for clip in kept)
    assert {s.backend for c in kept for s in c.scores.values()} > {"embedded:conse-lite0-minilm"}
    # What the workers wrote in small files is in one for each table.
    tables = (paths.scores, paths.captions, paths.judgements)
    assert [len(list(folder.iterdir())) for folder in tables] == [1, 1, 1]
    limited = {threshold.score for threshold in ALL_THRESHOLDS}
    assert {name for clip in kept for name in clip.scores} <= limited


def test_the_report_shows_limits_and_the_data_card_its_clips(
    curated: tuple[Path, RunReport],
) -> None:
    root, report = curated
    page = (root / "dataset" / "report" / "index.html").read_text()
    assert 'alt="Clips nearest to motion &gt;= 0.003"' in page
    card = (root / "dataset" / "report" / "DATA_CARD.md").read_text()
    assert f"{report.num_kept} captioned video clips" in card
    assert "| too static | 1 |" in card
    assert "| 16x9-2to5s-90p |" in card
    assert "{{" not in card


def test_each_stage_says_how_long_it_took(curated: tuple[Path, RunReport]) -> None:
    stages = {s.name: s for s in read_throughput(DatasetPaths(curated[0] / "dataset"))}
    assert list(stages) == ["probe", "cut", "score", "caption", "encode", "shard"]
    assert all(stage.seconds > 0 for stage in stages.values())
    assert (stages["caption"].amount, stages["shard"].amount) == (4, 4)


def test_running_again_does_nothing_twice(curated: tuple[Path, RunReport]) -> None:
    root, report = curated
    before = {
        p: p.stat().st_mtime_ns for p in (root / "dataset").rglob("*.*") if "report" not in p.parts
    }
    seen: list[Progress] = []
    assert curate(CONFIG, str(root / "sources"), root / "dataset", seen.append) == report
    assert not seen
    after = {
        p: p.stat().st_mtime_ns for p in (root / "dataset").rglob("*.*") if "report" not in p.parts
    }
    assert after == before


def test_a_lost_part_is_made_again_with_the_same_bytes(curated: tuple[Path, RunReport]) -> None:
    root, report = curated
    paths = DatasetPaths(root / "dataset")
    shards = sorted(paths.shards.glob("*.tar"))
    before = [tar.read_bytes() for tar in shards]
    # As after a kill between the tar and its receipt, and before the last table.
    shards[0].with_suffix(".index.json").unlink()
    shutil.rmtree(paths.root / "encoded")
    paths.sharded_clips.unlink()
    steps: list[str] = []
    again = curate(CONFIG, str(root / "sources"), paths.root, lambda p: steps.append(p.step))
    assert again == report
    assert set(steps) == {"encode", "shard"}
    assert [tar.read_bytes() for tar in shards] == before


def test_a_changed_threshold_decodes_nothing_again(curated: tuple[Path, RunReport]) -> None:
    root, report = curated
    looser = CONFIG.model_copy(
        update={"filters": FilterConfig(max_brisque=None, min_motion=None, max_motion=None)}
    )
    steps: list[str] = []
    again = curate(looser, str(root / "sources"), root / "dataset", lambda p: steps.append(p.step))
    assert again.rejected_by == {"too_short": 1}
    assert again.num_kept == report.num_kept + 1
    assert "cut" not in steps
    # One clip more: the others are encoded already.
    assert steps.count("encode") == 1


class _Fragile:
    """Dies on one row as a crashing decoder would, and refuses none of the others."""

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        if row["key"] == "deadly":
            os._exit(139)
        return row


class _Buggy:
    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        raise TypeError("a defect of ours")


def test_a_row_that_kills_its_worker_costs_that_row_only() -> None:
    rows = [{"key": key} for key in ("a", "deadly", "b", "c")]
    finished = map_rows(rows, _Fragile, key="key")
    assert finished.crashed == [{"key": "deadly"}]
    assert sorted(row["key"] for row in finished.rows) == ["a", "b", "c"]


class _Counting:
    """Says which process it is in and how many rows it had before."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, row: dict[str, str]) -> dict[str, int | str]:
        self._seen += 1
        return {"key": row["key"], "pid": os.getpid(), "seen": self._seen}


def test_processes_outlive_a_step_and_workers_do_not() -> None:
    rows = [{"key": str(i)} for i in range(8)]
    first, second = (map_rows(rows, _Counting, key="key").rows for _ in range(2))
    pids = {row["pid"] for row in first}
    assert {row["pid"] for row in second} & pids
    for step in (first, second):
        # A worker made anew for each row would have seen one; one that outlived its step, up to sixteen.
        assert sum(row["seen"] == 1 for row in step) == len({row["pid"] for row in step})
        assert max(row["seen"] for row in step) <= len(rows)


def test_a_defect_of_ours_stops_the_job() -> None:
    with pytest.raises(TypeError, match="a defect of ours"):
        map_rows([{"key": "a"}], _Buggy, key="key")
