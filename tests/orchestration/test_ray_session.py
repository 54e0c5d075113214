import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestration.ray_session import ClusterError, ray_session

JOIN = """
import sys
from orchestration.ray_session import ray_session
with ray_session(sys.argv[1]):
    import ray
    print("joined", ray.get_runtime_context().gcs_address)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("cluster", "expected host:port"),
        ("ray://127.0.0.1:1", "expected host:port"),
    ],
)
def test_a_wrong_address_is_one_line_at_once(
    address: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match=line), ray_session(address):
        pass


@pytest.fixture
def cluster(tmp_path: Path) -> Generator[str]:
    """The address of a Ray head with token authentication, in processes of its own."""
    port = free_port()
    # Not below tmp_path: a socket path may be 107 characters long.
    command = f"{Path(sys.executable).with_name('ray')} start --head --block --port {port}"
    options = "--node-ip-address 127.0.0.1 --include-dashboard=false --num-cpus 1 --object-store-memory 100000000"
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [*command.split(), *options.split()],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + 90
        while "Ray runtime started" not in (tmp_path / "head.log").read_text():
            assert head.poll() is None, (tmp_path / "head.log").read_text()
            assert time.monotonic() < deadline_s, (tmp_path / "head.log").read_text()
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        # It ends its own children; `ray stop` would end those of everybody.
        head.terminate()
        head.wait(30)


@pytest.mark.ray
@pytest.mark.slow
def test_a_running_cluster_is_joined(cluster: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    ran = subprocess.run(
        [sys.executable, "-c", JOIN, cluster],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    # Ray names the head by its outer address.
    assert ran.stdout.startswith("joined "), ran.stderr
    assert ran.stdout.strip().endswith(cluster.removeprefix("127.0.0.1"))
