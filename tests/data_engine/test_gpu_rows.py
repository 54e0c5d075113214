"""Rows through processes that hold a GPU, on a Ray that is told of two; no code here touches one."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray]

_SCRIPT = """
import json, os, sys
import ray
from data_engine.errors import JobError
from data_engine.ray_rows import check_gpus, map_rows

class Worker:
    def __init__(self):
        self.seen = 0
    def __call__(self, row):
        if row["key"] == "deadly":
            os._exit(139)
        self.seen += 1
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return {"key": row["key"], "pid": os.getpid(), "gpus": gpus, "seen": self.seen}

ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
rows = [{"key": key} for key in ("a", "b", "deadly", "c", "d", "e", "f", "g")]
finished = map_rows(rows, Worker, key="key", num_gpus=1.0)
ray.shutdown()
# More shares of the GPU than CPUs to hold them; and shares of which one GPU has room for one only.
packed = []
for cpus, gpus, share in ((2, 1, 0.2), (4, 2, 0.6)):
    ray.init(
        address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False
    )
    done = map_rows([{"key": str(i)} for i in range(6)], Worker, key="key", num_gpus=share)
    packed.append(sorted(row["key"] for row in done.rows))
    ray.shutdown()
ray.init(address="local", num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False)
try:
    check_gpus(0.5)
    error = None
except JobError as raised:
    error = str(raised)
print(json.dumps([finished.rows, finished.crashed, error, packed]))
"""


@pytest.fixture(scope="module")
def said() -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, check=True, timeout=240
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_each_process_keeps_its_gpu_and_a_deadly_row_costs_that_row_only(
    said: list[object],
) -> None:
    rows, crashed, *_ = said
    assert isinstance(rows, list)
    assert crashed == [{"key": "deadly"}]
    assert sorted(row["key"] for row in rows) == list("abcdefg")
    gpus_of = {(row["pid"], *row["gpus"]) for row in rows}
    assert {gpu for _, gpu in gpus_of} == {"0", "1"}
    # Two processes and one that took the place of the dead one, each with one GPU and one worker.
    assert len(gpus_of) <= 3
    assert len({pid for pid, _ in gpus_of}) == len(gpus_of)
    assert max(row["seen"] for row in rows) > 1


def test_a_gpu_that_no_cluster_has_is_one_clear_line(said: list[object]) -> None:
    assert said[2] == (
        "workers.num_gpus is 0.5, but the Ray cluster has no GPU; set it to 0, or name a cluster that has one with "
        "--ray-address"
    )


def test_no_row_waits_for_a_process_that_there_is_no_room_for(said: list[object]) -> None:
    assert said[3] == [list("012345")] * 2
