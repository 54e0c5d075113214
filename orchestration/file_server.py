"""Shows reports, previews and curves of a home folder to the browser of this machine: `make ui` starts it.

    python -m orchestration.file_server HOME --port 3001

Nothing else of the folder is handed out: no videos of yours, no weights, nothing that Dagster remembers. It listens on
127.0.0.1 only, and answers no request that was meant for another name.
"""

import argparse
from fnmatch import fnmatchcase
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
SHOWN = (
    "datasets/*/report/*",
    "runs/*/previews/*.png",
    "runs/*/previews/*.mp4",
    "runs/*/evaluation/*",
    "runs/*/loss.png",
)
"""Paths below the home folder; `*` stands for folders too."""


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, home: Path, **options: Any) -> None:
        self._home = home
        super().__init__(*args, directory=str(home), **options)

    def send_head(self) -> Any:
        name = self.headers.get("Host", "").rpartition(":")[0]
        path = Path(self.translate_path(self.path)).resolve()
        if name not in (HOST, "localhost") or not is_shown(self._home, path):
            self.send_error(404, "There is no such report")
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is Dagster's."""


def is_shown(home: Path, path: Path) -> bool:
    """Whether this resolved path is a file that is handed out."""
    if not path.is_relative_to(home) or not path.is_file():
        return False
    below = path.relative_to(home).as_posix()
    return any(fnmatchcase(below, pattern) for pattern in SHOWN)


def open_server(home: Path, port: int) -> ThreadingHTTPServer:
    """A server that waits for `serve_forever`; port 0 takes a free one."""
    return ThreadingHTTPServer((HOST, port), partial(_Handler, home=home.resolve()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the reports of a home folder.")
    parser.add_argument("home", type=Path)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    with open_server(given.home, given.port) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
