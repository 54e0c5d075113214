"""The program `vbench` of its authors: what it is asked, and the dimensions that it finds.

It says nothing by its exit code, and splices its arguments into a shell: it is started in the folder of the suite, with plain
relative names, and is believed when its result is there.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import EvaluationError

LIST_NAME = "VBench_full_info.json"
RESULTS_FOLDER = "vbench"
RESULTS_PATTERN = "*_eval_results.json"
TIMEOUT_S = 6 * 3600.0
UNKNOWN_VERSION = "vbench, version unknown"
FLICKER = "temporal_flickering"
_STILL_FOLDER = f"{RESULTS_FOLDER}/still"
_LOG_LINES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class VBench:
    """The program, and how long it may take for one dimension."""

    program: str
    timeout_s: float = TIMEOUT_S

    @property
    def version(self) -> str:
        """As the Python beside the program knows it."""
        python = Path(self.program).parent / "python"
        ask = "from importlib.metadata import version; print(version('vbench'))"
        try:
            done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        except OSError:  # a program that lies alone
            return UNKNOWN_VERSION
        return f"vbench {done.stdout.strip()}" if done.stdout.strip() else UNKNOWN_VERSION

    def judge(self, suite: Path, dimension: str) -> Mapping[str, float]:
        """Judge the videos of a suite by one dimension; its output is kept beside the result.

        Raises:
            EvaluationError: the program cannot be started, takes too long, or leaves no result.
        """
        results = suite / RESULTS_FOLDER
        results.mkdir(parents=True, exist_ok=True)
        if dimension == FLICKER:
            # Copies of an earlier run would be judged again.
            shutil.rmtree(suite / _STILL_FOLDER, ignore_errors=True)
        log = results / f"{dimension}.log"
        with log.open("wb") as output:
            codes = [
                self._run([self.program, *words], suite, output.fileno(), dimension)
                for words in commands(dimension)
            ]
        found = read_dimensions(results)
        if dimension not in found:
            last = log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
            raise EvaluationError(
                f"{self.program} left no result for {dimension} (exit codes {codes}): {' / '.join(last) or 'no output'}; "
                f"all of it is in {log}"
            )
        return found

    def _run(self, words: list[str], folder: Path, output: int, dimension: str) -> int:
        try:
            # It starts processes of its own: all of them are one group, to be ended together.
            running = subprocess.Popen(
                words, cwd=folder, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise EvaluationError(f"--vbench {self.program} cannot be started ({error})") from error
        try:
            return running.wait(self.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise EvaluationError(
                f"{self.program} took longer than {self.timeout_s:g} s for {dimension} and was ended; give it more with "
                "--vbench-timeout"
            ) from error
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def found_program(name: str = "vbench") -> str | None:
    """Its absolute path, if it is on PATH."""
    found = shutil.which(name)
    return None if found is None else str(Path(found).absolute())


def commands(dimension: str) -> list[list[str]]:
    """What the program is asked in the folder of the suite. Flickering is judged on the still ones of 25 videos."""
    videos = "videos"
    before: list[list[str]] = []
    if dimension == FLICKER:
        before = [["static_filter", "--videos_path", videos, "--result_path", _STILL_FOLDER]]
        videos = f"{_STILL_FOLDER}/filtered_videos"
    words = ["evaluate", "--videos_path", videos, "--output_path", RESULTS_FOLDER]
    return [*before, [*words, "--full_json_dir", LIST_NAME, "--dimension", dimension]]


def read_dimensions(folder: Path) -> dict[str, float]:
    """The dimensions that `vbench evaluate` has written into a folder, 0 to 1; none if it did not run.

    Raises:
        EvaluationError: a file is unreadable, or two files hold different values of one dimension.
    """
    found: dict[str, float] = {}
    for path in sorted(folder.glob(RESULTS_PATTERN)):
        try:
            # Each dimension: its mean, then the score of every video.
            values = {str(k): float(v[0]) for k, v in json.loads(path.read_bytes()).items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise EvaluationError(
                f"{path} is no result of VBench ({error}); run it again"
            ) from error
        again = [name for name in values if name in found and found[name] != values[name]]
        if again:
            raise EvaluationError(
                f"{path} and an earlier file differ in {', '.join(again)}; delete the older one"
            )
        found |= values
    return found
