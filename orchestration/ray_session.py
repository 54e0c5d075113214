"""A Ray to run in: an own one in this process, or a running cluster."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

LOCAL = "local"
JOINED = "auto"
"""The cluster that this process belongs to: inside a Ray job."""
_CONNECT_TIMEOUT_S = 5.0


class ClusterError(ConnectionError):
    """The cluster at the given address cannot be reached."""


@contextmanager
def ray_session(address: str = LOCAL, object_store_mb: int = 512) -> Generator[None]:
    """Ray, initialised, until the block ends. Within a session, a second one is the same.

    `address` is "local" for a Ray of our own, which ends with this process, `host:port` of a cluster, or "auto" in
    a process that a cluster started.

    Raises:
        ClusterError: nothing answers at `address`.
    """
    # Read when Ray is imported, so before the import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Its workers otherwise print notes about restarts that no user can act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address != LOCAL:
        token_authentication()
    if address not in (LOCAL, JOINED):
        _check_reachable(address)
    import ray
    import ray.data  # sets its own log level when it is first imported, so before ours

    if ray.is_initialized():
        yield
        return
    logging.getLogger(ray.data.__name__).setLevel(logging.ERROR)
    if address == LOCAL:
        ray.init(
            # "local" and not the default, which may join a cluster that somebody else started.
            address=LOCAL,
            include_dashboard=False,
            object_store_memory=object_store_mb * 2**20,
            logging_level=logging.ERROR,
            # What workers print stays in Ray's session folder; errors come back with the results.
            log_to_driver=False,
        )
    else:
        try:
            # A job has a log of its own, for what its workers print too.
            in_job = address == JOINED
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=in_job)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"--ray-address {address}: cannot join that cluster ({str(error).splitlines()[0]}); "
                "expected host:port of a running Ray head of the same version; if it uses token authentication, "
                "export RAY_AUTH_MODE=token and have its token in ~/.ray/auth_token"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def token_authentication() -> None:
    """Ray turns token authentication on by itself; a client that does not say so is refused."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_reachable(address: str) -> None:
    """Ray itself would try for 90 seconds."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ClusterError(
            f"--ray-address {address} is not an address; expected host:port of a running Ray head, "
            f"such as 10.0.0.5:6379, or {LOCAL}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"--ray-address {address}: nothing answers there ({error}); start a cluster with "
            "`ray start --head --port 6379`, or leave the option out"
        ) from error
