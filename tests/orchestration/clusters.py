"""A real Ray cluster of one node, as somebody else would have started it."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from orchestration.ray_jobs import connect
from orchestration.ray_session import ClusterError
from tests.orchestration.builders import wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def ray_cluster(port: int | None = None) -> Generator[str]:
    """The dashboard of `ray start --head` on ports of its own; ended with its processes, and no other Ray."""
    port = port or free_port()
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        f"--port={free_port()}",
        f"--dashboard-port={port}",
        f"--dashboard-agent-listen-port={free_port()}",
        "--num-cpus=2",
        f"--object-store-memory={200 * 2**20}",
    ]
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(address), 120)
        yield address
    finally:
        # Not `ray stop`, which ends every Ray of the user, nor a mere SIGTERM, which takes half a minute.
        with suppress(psutil.NoSuchProcess):
            for part in [*psutil.Process(process.pid).children(recursive=True), process]:
                part.kill()
        process.wait()


def answers(address: str) -> bool:
    try:
        connect(address)
    except ClusterError:
        return False
    return True
