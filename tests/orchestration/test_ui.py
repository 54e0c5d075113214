"""The Dagster UI as a person uses it: a batch is curated by clicking and looked at, then trained on and curated again, with other
settings, from the launchpad.

Two environment variables make the pictures of docs/ui.md: STIV_UI_PICTURES is the folder for them, and STIV_UI_BATCH
a folder of videos to take instead of the film that the test makes.
"""

import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from data_engine.tables import DatasetPaths, read_clips
from orchestration.file_server import open_server
from tests.orchestration.builders import BATCH, FEW_STEPS, wait_for, write_film
from tests.orchestration.dagster_ui import Page, Server, chromium, dagster_dev, find_browser

TAKES_PICTURES = "STIV_UI_PICTURES" in os.environ
"""Then what takes minutes to show is looked at too."""
CURATION_S = 1500.0
TRAINING_S = 1200.0
STRICT_MOTION = 0.15
"""Of the two shots of the film that move, one is faster: diagonals a second."""
LOCATION = "orchestration.definitions"
CURATION = (
    *("source_videos", "scored_clips", "filtered_clips", "deduplicated_clips", "captioned_clips"),
    *("shards", "curation_report"),
)
SHORT: dict[str, Any] = {
    **FEW_STEPS,
    "stages": {name: {**stage, "num_steps": 60} for name, stage in FEW_STEPS["stages"].items()},
}
"""Enough steps for the loss to fall."""
SHOWN: dict[str, Any] = {
    "stages": {"t2i": {"batch_size": 16}, "t2v": {"batch_size": 8}, "stiv": {"batch_size": 8}}
}
"""Of the few clips of a batch, and enough steps for real ones."""
TRAINED = SHOWN if TAKES_PICTURES else SHORT


@pytest.mark.ui
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_batch_is_curated_and_trained_on_by_clicking(tmp_path: Path) -> None:
    found = find_browser()
    if found is None and "CI" not in os.environ:
        pytest.skip("needs chromium and chromedriver (`make browser`); required where CI is set")
    assert found, "CI is set, so Chromium and chromedriver must be installed (`make browser`)"
    home = tmp_path / "home"
    with (
        reports_of(home) as files,
        dagster_dev(home, STIV_FILES_URL=files) as server,
        chromium(*found, tmp_path / "profile") as page,
    ):
        curate_by_clicking(server, page, home)
        look_at_the_batch(server, page, home)
        be_refused(server, page)
        train_from_the_launchpad(server, page)
        terminate_a_run(server, page, home)
        # Last, since it leaves fewer clips of the film than a batch of the training takes.
        curate_from_the_launchpad(server, page, home)


def curate_by_clicking(server: Server, page: Page, home: Path) -> None:
    """A partition is added and materialised, and its assets turn green in the graph."""
    videos = make_videos(home / "made")
    page.open(f"{server.url}/locations/{LOCATION}/asset-groups/curation/lineage")
    page.see("scored_clips")
    page.click("Materialize all")
    page.click("Add a partition")
    page.type("name", batch_name())
    page.click("Save")
    page.see("Launch 1 run")
    # Only now and at once, since the sensor would add the partition of a folder that it finds before.
    videos.rename(home / "sources" / batch_name())
    page.click("Launch 1 run")
    assert server.wait_for_runs(CURATION_S) == ["SUCCESS"], server.log_tail()


def look_at_the_batch(server: Server, page: Page, home: Path) -> None:
    """The graph is green, a report has pictures, and from the shards one click leads to every clip."""
    page.open(f"{server.url}/locations/{LOCATION}/asset-groups/curation/lineage")
    for asset in CURATION:
        page.wait_until_green(asset)
    picture(page, "lineage")
    page.open(f"{server.url}/assets/shards?view=checks")
    page.see("every_shard_matches_its_hash")
    page.see("Passed")
    picture(page, "checks")
    page.open(f"{server.url}/assets/shards")
    page.scroll_to("lineage_of_all_clips")
    picture(page, "asset")
    page.open(page.address_of("clips/index.html"))
    clip = read_clips(DatasetPaths(home / "datasets" / batch_name()).filtered_clips)[0]
    page.click(f"{clip.clip_id[:2]}...")
    page.see(clip.clip_id)
    page.open(f"{server.url}/assets/filtered_clips")
    page.scroll_to("clips_kept")
    page.click("[Show Markdown]")
    assert page.picture_width_px("funnel") > 100
    assert page.picture_width_px("kept clips") > 100
    picture(page, "report")
    page.darken(True)
    picture(page, "report-dark")
    page.darken(False)


def be_refused(server: Server, page: Page) -> None:
    """A field that is none, and a stage that is none, are refused in the launchpad."""
    open_launchpad(server, page)
    page.write_config(launched("refused", {"stages": {"t2x": {"num_steps": 4}}}))
    page.see('Received unexpected config entry "t2x"')
    page.write_config(launched("refused", {"stages": {"t2v": {"num_stepz": 4}}}))
    page.see('Received unexpected config entry "num_stepz"')
    page.click("View all")
    page.see("num_steps")
    picture(page, "refused")


def train_from_the_launchpad(server: Server, page: Page) -> None:
    """With an override that fits, every stage is trained."""
    open_launchpad(server, page)
    page.write_config(launched("short", TRAINED))
    page.see("No errors")
    page.launch()
    assert server.wait_for_runs(TRAINING_S, count=2) == ["SUCCESS"] * 2, server.log_tail()
    if TAKES_PICTURES:
        look_at_the_stages(server, page)


def look_at_the_stages(server: Server, page: Page) -> None:
    page.open(f"{server.url}/locations/{LOCATION}/asset-groups/train_demo_tiny/lineage")
    page.wait_until_green("stiv_samples")
    picture(page, "training")
    page.open(f"{server.url}/assets/demo_tiny/stiv")
    page.scroll_to("last_loss")
    page.click("[Show Markdown]")
    assert page.picture_width_px("loss curve") > 100
    picture(page, "losses")


def terminate_a_run(server: Server, page: Page, home: Path) -> None:
    """The Ray of a terminated run ends with it."""
    others = raylets()  # such as that of the tests before
    open_launchpad(server, page)
    endless = {"num_steps": 50_000, "batch_size": 2, "checkpoint_every_steps": 10_000}
    stages = {**TRAINED["stages"], "t2i": endless}
    page.write_config(launched("endless", {**TRAINED, "stages": stages}))
    page.launch()
    metrics = home / "runs" / "endless" / "t2i" / "metrics.jsonl"

    def has_begun() -> bool:
        assert "FAILURE" not in server.states(), server.log_tail()
        return metrics.exists() and metrics.stat().st_size > 0

    wait_for(has_begun, TRAINING_S)
    assert raylets() - others
    run = page.address
    if TAKES_PICTURES:
        look_at_live_plots(server, page, metrics)
        page.open(run)
        page.wait_until_gone("Loading run logs")
    picture(page, "run")
    page.click("Terminate")
    page.click("Terminate 1 run")
    assert sorted(server.wait_for_runs(TRAINING_S, count=3)) == ["CANCELED", *["SUCCESS"] * 2]
    wait_for(lambda: not raylets() - others, 60)


def look_at_live_plots(server: Server, page: Page, metrics: Path) -> None:
    """The loss of a stage that is being trained is drawn on the page of its asset."""
    wait_for(lambda: len(metrics.read_text().splitlines()) >= 2500, TRAINING_S)
    page.open(f"{server.url}/assets/demo_tiny/t2i")
    page.click("Plots")
    page.scroll_to("running_loss")
    picture(page, "live")


def curate_from_the_launchpad(server: Server, page: Page, home: Path) -> None:
    """A stricter limit is one field there, and keeps fewer of the same clips."""
    clips = DatasetPaths(home / "datasets" / batch_name()).filtered_clips
    before = num_kept(clips)
    page.open(f"{server.url}/locations/{LOCATION}/jobs/curate/playground")
    page.see("No errors")
    page.pick_partition(batch_name())
    overrides = {"filters": {"min_motion": STRICT_MOTION}}
    page.write_config(json.dumps({"resources": {"engine": {"config": {"overrides": overrides}}}}))
    page.launch()
    states = server.wait_for_runs(CURATION_S, count=4)
    assert sorted(states) == ["CANCELED", *["SUCCESS"] * 3], server.log_tail()
    assert 0 < num_kept(clips) < before


@contextmanager
def reports_of(home: Path) -> Generator[str]:
    """The address of the file server that `make ui` starts beside Dagster."""
    home.mkdir(exist_ok=True)
    with open_server(home, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def num_kept(clips: Path) -> int:
    return sum(clip.rejected_by is None for clip in read_clips(clips))


def raylets() -> set[int]:
    """The process of each node of Ray on this machine."""
    return {process.pid for process in psutil.process_iter() if "raylet" in process.name()}


def open_launchpad(server: Server, page: Page) -> None:
    page.open(f"{server.url}/locations/{LOCATION}/jobs/train_progressive_demo_tiny/playground")
    # It opens with what was written there last, be it right or wrong.
    page.see("Launch Run")


def launched(run: str, overrides: Mapping[str, Any]) -> str:
    config = {"run": run, "latents": "small", "overrides": overrides}
    return json.dumps({"resources": {"train_demo_tiny": {"config": config}}}, indent=2)


def batch_name() -> str:
    given = os.environ.get("STIV_UI_BATCH")
    return Path(given).name if given else BATCH


def make_videos(home: Path) -> Path:
    """The folder of the batch."""
    given = os.environ.get("STIV_UI_BATCH")
    if given:
        return Path(shutil.copytree(given, home / batch_name()))
    return write_film(home).parent


def picture(page: Page, name: str) -> None:
    folder = os.environ.get("STIV_UI_PICTURES")
    if folder:
        page.save(Path(folder) / f"ui-{name}.png")
