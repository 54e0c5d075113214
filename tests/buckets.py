"""A local S3 server."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def s3_bucket(name: str) -> Generator[Any]:
    """fsspec's file system of an empty bucket, which this process finds by the environment."""
    # Here and not above: the server takes a second to import, in every process that collects the tests.
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'stiv[cloud]'")
    servers: Any = pytest.importorskip("moto.server", reason="needs moto[server], an S3 server")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            import fsspec

            # Kept by fsspec, it would ask the server of the test before.
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            files: Any = fsspec.filesystem("s3", skip_instance_cache=True)
            files.mkdir(name)
            yield files
    finally:
        server.stop()
