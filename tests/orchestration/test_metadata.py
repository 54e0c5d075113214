"""Metadata stays small, however large a data set is, and names no place and no secret."""

from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import numpy as np
import pytest

from data_engine.config import DataEngineConfig
from data_engine.container import encode_jpeg
from data_engine.schema import (
    MANIFEST_NAME,
    ClipRecord,
    Rejection,
    ShardEntry,
    ShardManifest,
    ShardSample,
    SourceVideo,
)
from data_engine.tables import (
    CLIPS,
    FRAMES,
    QUARANTINE,
    SOURCES,
    DatasetPaths,
    rows_of,
    write_clips,
    write_table,
    write_text,
)
from data_engine.throughput import stage_clock
from orchestration.assets import curation
from orchestration.checks import METADATA_CHECKS
from orchestration.costs import PRICE_VARIABLE, step_cost
from orchestration.file_server import open_server
from orchestration.links import FILES_VARIABLE, file_link, tensorboard_link
from orchestration.metadata import MAX_METADATA_BYTES, fitted, stored_bytes, table
from orchestration.private_parts import private_parts
from orchestration.reporting import clip_metadata, column_schema, shard_metadata, stage_speeds
from tests.factories import caption, clip_record, scores
from tests.orchestration.builders import BATCH, materialize, new_instance

NUM_CLIPS = 600
LONG = "https://videos.example/" + "a-long-folder/" * 20


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> DatasetPaths:
    return write_large(tmp_path_factory.mktemp("home"))


class TestBudget:
    """A large synthetic data set, whose every text is long and different."""

    def test_the_metadata_of_shards_fits(self, paths: DatasetPaths) -> None:
        from data_engine.tables import load_clips

        shown = clip_metadata(paths, load_clips(paths)) | shard_metadata(paths, "pages")
        found = fitted(
            {
                **shown,
                "dagster/column_schema": column_schema(paths.sharded_clips),
                "config": DataEngineConfig().model_dump(mode="json"),
            }
        )
        assert 50_000 < stored_bytes(found) < MAX_METADATA_BYTES
        report = found["report"].md_str
        assert "![funnel](" in report
        assert "![kept clips](" in report
        assert "more." in report

    @pytest.mark.slow
    def test_the_report_asset_fits_and_its_check_passes(
        self, paths: DatasetPaths, tmp_path: Path
    ) -> None:
        (check,) = [
            c for c in METADATA_CHECKS if c.check_key.asset_key == curation.curation_report.key
        ]
        with new_instance(tmp_path / "dagster") as instance:
            result = materialize(
                paths.root.parents[1],
                [curation.curation_report, check],
                instance,
                partition_key=BATCH,
            )
        (event,) = result.asset_materializations_for_node("curation_report")
        assert len(dg.serialize_value(event)) < MAX_METADATA_BYTES
        assert "the rest is in DATA_CARD.md" in str(event.metadata["report"].value)
        (evaluation,) = result.get_asset_check_evaluations()
        assert evaluation.passed, evaluation.description

    def test_what_does_not_fit_is_named(self) -> None:
        shown = {
            "report": {"Small": "kept", "Huge": "x" * MAX_METADATA_BYTES, "Last": "kept too"},
            "table": ["y" * 50] * MAX_METADATA_BYTES,
            "count": 3,
        }
        found = fitted(shown)
        assert set(found) == {"report", "count"}
        assert "Too large for this page: table, Huge." in found["report"].md_str
        assert "kept too" in found["report"].md_str
        assert stored_bytes(found) < MAX_METADATA_BYTES

    def test_a_table_is_cut_and_says_so(self) -> None:
        text = table(("a",), [("long " * 100,)] * 60)
        assert "and 10 more." in text
        assert len(text) < 60 * 220


def write_large(home: Path) -> DatasetPaths:
    paths = DatasetPaths(home / "datasets" / BATCH)
    paths.shards.mkdir(parents=True)
    source = SourceVideo(
        source_id="0123456789abcdef",
        uri="film.mp4",
        location="/videos/film.mp4",
        size_bytes=1000,
        codec="h264",
        height_px=360,
        width_px=640,
        rotation_deg=0,
        fps=24.0,
        duration_s=9000.0,
    )
    clips = [_clip(number) for number in range(NUM_CLIPS)]
    kept = [clip for clip in clips if clip.rejected_by is None and clip.error is None]
    write_table(paths.sources, rows_of([source]), SOURCES, "test")
    write_table(paths.quarantine, [], QUARANTINE, "test")
    write_clips(paths.cuts(source.source_id), clips, "test")
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3)).astype(np.uint8)
    jpeg = encode_jpeg(noise)
    frames = ({"clip_id": c.clip_id, "time_s": c.start_s, "jpeg": jpeg} for c in clips)
    write_table(paths.frames(source.source_id), frames, FRAMES, "test")
    write_clips(paths.scored_clips, clips, "test")
    write_clips(paths.filtered_clips, clips, "test")
    for path in (paths.deduplicated_clips, paths.captioned_clips, paths.sharded_clips):
        write_clips(path, kept, "test")
    entry = ShardEntry(
        name="shard-16x9-000000.tar",
        bucket="16x9",
        sha256="0" * 64,
        size_bytes=2048,
        samples=tuple(ShardSample(clip_id=clip.clip_id, members={}) for clip in kept),
    )
    write_text(paths.shards / MANIFEST_NAME, ShardManifest(shards=(entry,), config={}).to_json())
    assert CLIPS.names[0] == "clip_id"
    return paths


def _clip(number: int) -> ClipRecord:
    reasons = [*[None] * 6, *Rejection]
    rejected_by = reasons[number % len(reasons)]
    fails = rejected_by is None and number % 2 == 1
    return clip_record(
        source_uri=f"{LONG}{number}.mp4",
        start_s=4.0 * number,
        end_s=4.0 * number + 4,
        rejected_by=rejected_by,
        error=f"failed in a way of its own, number {number}: {LONG}" if fails else None,
        captions=(caption(f"A caption of clip {number}, long. " * 20),),
        scores=scores(motion=number / NUM_CLIPS, sharpness=100.0 + number),
        attribution=f"(c) maker {number}, {LONG}",
    )


class TestPrivateParts:
    @pytest.mark.parametrize(
        "text",
        [
            "/srv/secret-films/a.mp4",
            "see (/home/somebody/notes.txt) and",
            "--source=/data/films/b",
            r"C:\Users\somebody",
            "file:///srv/films/a.mp4",
            "~/films",
            "| a | /mnt/films/c.mp4 |",
        ],
    )
    def test_a_place_is_found(self, text: str) -> None:
        assert private_parts({"report": dg.MetadataValue.md(text)}, {})

    @pytest.mark.parametrize(
        "value",
        [
            dg.MetadataValue.json({"config": {"sources": ["ok", {"folder": "/srv/films/a"}]}}),
            dg.MetadataValue.table([dg.TableRecord({"source": "/srv/films/a", "n": 1})]),
            dg.MetadataValue.path("/srv/films/a"),
        ],
    )
    def test_a_place_is_found_in_every_kind_of_value(self, value: dg.MetadataValue[Any]) -> None:
        assert private_parts({"x": value}, {}) == ["x: /srv/films/a"]

    @pytest.mark.parametrize(
        "text",
        [
            "datasets/film/report/index.html",
            "https://videos.example/a/b.mp4 and s3://bucket/folder/c.mp4",
            "1/2 of 16/9 tokens/s/worker, and/or",
            "![kept](data:image/png;base64,/9j/4AAQ/abc/def==)",
            "A cat sits on a chair / on a sofa.",
        ],
    )
    def test_nothing_else_is_taken_for_one(self, text: str) -> None:
        assert private_parts({"report": dg.MetadataValue.md(text)}, {}) == []

    def test_a_secret_is_called_by_its_name_alone(self) -> None:
        environment = {"HUB_TOKEN": "abcdefgh1", "HOME": "abcdefgh1", "API_KEY": "short"}
        metadata = {"text": dg.MetadataValue.text("it is abcdefgh1, and short")}
        assert private_parts(metadata, environment) == ["text: the value of HUB_TOKEN"]

    def test_the_check_fails_on_a_place_in_training_metadata(self, tmp_path: Path) -> None:
        key = dg.AssetKey(["demo_tiny", "t2i"])
        (check,) = [c for c in METADATA_CHECKS if c.check_key.asset_key == key]

        @dg.asset(key=key)
        def stage() -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(metadata={"film": "/srv/secret-films/a.mp4"})

        with new_instance(tmp_path) as instance:
            result = dg.materialize([stage, check], instance=instance)
        (evaluation,) = result.get_asset_check_evaluations()
        assert not evaluation.passed
        assert evaluation.description == "film: /srv/secret-films/a.mp4"

    def test_every_asset_is_looked_at(self) -> None:
        from orchestration.definitions import defs

        looked_at = {check.check_key.asset_key for check in METADATA_CHECKS}
        assert looked_at == {spec.key for spec in defs.resolve_all_asset_specs()}


class TestCosts:
    def test_a_step_has_its_price(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PRICE_VARIABLE, "36000")
        with step_cost() as cost:
            pass
        shown = cost.metadata()
        assert shown["step_cost"] == pytest.approx(10 * shown["step_seconds"], abs=0.6)
        assert cost.price("train", 0.5) == {"train_cost": 5.0}

    def test_without_a_price_there_is_no_cost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(PRICE_VARIABLE, raising=False)
        with step_cost() as cost:
            pass
        assert set(cost.metadata()) <= {"step_seconds", "step_core_seconds"}

    @pytest.mark.parametrize("price", ["cheap", "-1", "nan"])
    def test_what_is_no_price_is_said_in_one_line(
        self, price: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PRICE_VARIABLE, price)
        with pytest.raises(dg.Failure) as raised, step_cost():
            pass
        assert f"{PRICE_VARIABLE} is '{price}'; expected a number" in str(raised.value.description)

    def test_stages_have_their_speed(self, tmp_path: Path) -> None:
        paths = DatasetPaths(tmp_path)
        with (
            stage_clock(paths, "cut", 120.0, "s of video"),
            stage_clock(paths, "score", 3, "clips"),
        ):
            pass
        shown = stage_speeds(paths, "cut", "score", "absent")
        assert set(shown) == {
            *("cut_seconds", "cut_video_s_per_s", "score_seconds", "score_clips_per_s")
        }
        assert shown["cut_video_s_per_s"] >= shown["score_clips_per_s"] > 0


class TestLinks:
    def test_they_can_be_clicked_where_the_files_are_served(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(FILES_VARIABLE, "https://files.example/stiv/")
        found = file_link("datasets/my film/report/index.html")
        assert found.value == "https://files.example/stiv/datasets/my%20film/report/index.html"
        assert isinstance(found, dg.UrlMetadataValue)

    def test_else_they_say_where_to_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (FILES_VARIABLE, "STIV_TENSORBOARD_URL"):
            monkeypatch.delenv(name, raising=False)
        assert file_link("datasets/a/report/index.html").value == "datasets/a/report/index.html"
        assert tensorboard_link("r", "t2v").value == "tensorboard --logdir runs/r/t2v/tensorboard"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("home")
    for name in (
        *("datasets/a/report/index.html", "datasets/a/report/clips/a1.html", "dagster/runs.db"),
        *(
            "datasets/a/sources.parquet",
            "runs/r/t2v/previews/step-1-0.png",
            "runs/r/t2v/loss.png",
        ),
        *("runs/r/config.json", "sources/a/film.mp4"),
    ):
        write_text(home / name, f"this is {name}")
    (home / "datasets/a/report/link.html").symlink_to(home / "dagster/runs.db")
    with open_server(home, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class TestFileServer:
    """It hands out reports and pictures, and nothing else."""

    def get(self, port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path, headers={"Host": f"{host}:{port}"})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    @pytest.mark.parametrize(
        "path",
        [
            "datasets/a/report/index.html",
            "datasets/a/report/clips/a1.html",
            "runs/r/t2v/previews/step-1-0.png",
            "runs/r/t2v/loss.png",
        ],
    )
    def test_a_report_is_shown(self, port: int, path: str) -> None:
        assert self.get(port, f"/{path}") == (200, f"this is {path}".encode())

    @pytest.mark.parametrize(
        "path",
        [
            *("/", "/datasets/a/report/", "/dagster/runs.db", "/datasets/a/sources.parquet"),
            *("/runs/r/config.json", "/sources/a/film.mp4", "/datasets/a/report/link.html"),
            *("/datasets/a/report/../sources.parquet", "/datasets/a/report/%2e%2e/sources.parquet"),
        ],
    )
    def test_nothing_else_is(self, port: int, path: str) -> None:
        assert self.get(port, path)[0] == 404

    def test_a_page_of_another_name_reads_nothing(self, port: int) -> None:
        """As one does that lets its name point to this machine."""
        assert self.get(port, "/datasets/a/report/index.html", host="evil.example")[0] == 404
