"""A piece of work as a Ray job on a cluster, watched from a Dagster run.

The name of a job follows from what it does. Whoever asks for the same work while it is under way watches that job
instead of starting a second one: a run that is started again after the daemon or the machine of Dagster was lost, or
after somebody clicked twice. The request and the messages of a job lie in a folder that the cluster sees too.
"""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter

from orchestration.ray_session import ClusterError, token_authentication
from orchestration.work import OnWorkProgress, Result, WorkProgress

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_INTERVAL_S = 1.0
MAX_SILENCE_S = 600.0
"""A cluster that does not answer for longer is given up; the job itself may go on, and is found again."""
MAX_STOP_S = 60.0
LOG_LINES = 20
PLACE = "stiv_place"
"""The metadata of a job that says which folder it writes."""


@dataclass(frozen=True)
class JobRequest:
    """Which work, with which arguments, all plain values, and the folder that it writes."""

    work: str
    arguments: Mapping[str, Any]
    place: str

    def to_json(self) -> str:
        return json.dumps({"work": self.work, "arguments": dict(self.arguments)}, sort_keys=True)

    @property
    def base_name(self) -> str:
        return f"stiv-{self.work}-{hashlib.sha256(self.to_json().encode()).hexdigest()[:12]}"


def run_job(
    context: dg.AssetExecutionContext,
    address: str,
    folder: Path,
    request: JobRequest,
    on_progress: OnWorkProgress,
) -> Result:
    """Do the work in a Ray job and wait for its end. If this run is terminated, so is the job.

    `address` is that of the dashboard, such as http://head:8265; `folder` holds what belongs to jobs.

    Raises:
        ClusterError: the cluster does not answer.
        dg.Failure: the job failed or was stopped; not to be tried again after a mistake of the user.
    """
    client = connect(address)
    name = _name_of(client, request)
    files = folder / name
    files.mkdir(parents=True, exist_ok=True)
    messages = _Messages(files / "messages.jsonl", on_progress)
    with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), messages) as session:
        if _is_under_way(client, name):
            context.log.info(f"Ray job {name} is under way at {address}: watching it")
        else:
            _wait_for_others(client, request.place, context.log.info)
            path = files / "request.json"
            path.write_text(request.to_json())
            client.submit_job(
                entrypoint=shlex.join(
                    [sys.executable, "-m", "orchestration.ray_job_main", str(path)]
                ),
                submission_id=name,
                # The driver only waits; its workers ask for what they need.
                entrypoint_num_cpus=0,
                runtime_env={"env_vars": session.get_bootstrap_env_vars()},
                metadata={PLACE: request.place},
            )
            context.log.info(f"submitted Ray job {name} to {address}")
        try:
            status = _wait(client, name, context.log.warning)
        except (ClusterError, dg.Failure):
            raise
        except BaseException:
            # The run was terminated, and nobody is left who wants the result.
            _stop(client, name)
            raise
    return messages.result_of(name, status, lambda: _last_lines(client, name))


def connect(address: str) -> "JobSubmissionClient":
    """A client of the cluster whose dashboard is at `address`.

    Raises:
        ClusterError: nothing answers there, or not to us.
    """
    token_authentication()
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(
            f"Ray address {address}: no cluster answers there ({str(error).splitlines()[0]}); expected the "
            "dashboard of a Ray head, such as http://10.0.0.5:8265"
        ) from error


class _Messages(dg.PipesMessageReader):
    """Follows the file of messages from its start, whoever began it, and keeps what a job ends with."""

    def __init__(self, path: Path, on_progress: OnWorkProgress) -> None:
        self._path = path
        self._on_progress = on_progress
        self._end: dict[str, Any] = {}

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Generator[dict[str, Any]]:
        self._path.touch()
        ended = Event()
        thread = Thread(target=self._follow, args=(handler, ended), name="ray-job-messages")
        thread.start()
        try:
            yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._path)}
        finally:
            ended.set()
            thread.join()

    def no_messages_debug_text(self) -> str:
        return f"Nothing was written to {self._path}."

    def result_of(self, name: str, status: str, last_lines: Callable[[], str]) -> Result:
        """What the job gave.

        Raises:
            dg.Failure: it failed or was stopped.
        """
        if status == "SUCCEEDED":
            return self._end.get("result")
        if "error" in self._end:
            raise dg.Failure(description=self._end["error"], allow_retries=False)
        raise dg.Failure(description=f"Ray job {name} ended as {status}:\n{last_lines()}")

    def _follow(self, handler: dg.PipesMessageHandler, ended: Event) -> None:
        line = b""
        with self._path.open("rb") as file:
            while True:
                # Asked before the file is read, so that nothing that was written before the end is missed.
                is_last = ended.is_set()
                while part := file.readline():
                    line += part
                    if line.endswith(b"\n"):
                        self._take(handler, json.loads(line))
                        line = b""
                if is_last:
                    return
                ended.wait(0.5)

    def _take(self, handler: dg.PipesMessageHandler, message: Any) -> None:
        if message["method"] != "report_custom_message":
            handler.handle_message(message)
            return
        payload = message["params"]["payload"]
        if "progress" in payload:
            self._on_progress(WorkProgress(**payload["progress"]))
        else:
            self._end = payload


def _name_of(client: "JobSubmissionClient", request: JobRequest) -> str:
    """The job under way that does this, or the next free number: Ray takes each name once."""
    taken = {job.submission_id: str(job.status.value) for job in client.list_jobs()}
    number = 0
    while (name := f"{request.base_name}-{number}") in taken:
        if taken[name] in ("PENDING", "RUNNING"):
            return name
        number += 1
    return name


def _is_under_way(client: "JobSubmissionClient", name: str) -> bool:
    return any(job.submission_id == name for job in client.list_jobs())


def _wait_for_others(
    client: "JobSubmissionClient", place: str, tell: Callable[[str], None]
) -> None:
    """Until no job writes the folder: that of another step, or of other settings."""
    told: set[str] = set()
    while True:
        others = {
            str(job.submission_id)
            for job in client.list_jobs()
            if (job.metadata or {}).get(PLACE) == place and not job.status.is_terminal()
        }
        if not others:
            return
        for name in others - told:
            tell(f"waiting for Ray job {name}, which works on {place}")
        told |= others
        time.sleep(POLL_INTERVAL_S)


def _wait(client: "JobSubmissionClient", name: str, warn: Callable[[str], None]) -> str:
    """The last state of the job. A cluster that is silent for a while is asked again."""
    answered_s = time.monotonic()
    while True:
        try:
            status = client.get_job_status(name)
            answered_s = time.monotonic()
            if status.is_terminal():
                return str(status.value)
        except (ConnectionError, OSError, RuntimeError) as error:
            silent_s = time.monotonic() - answered_s
            if silent_s > MAX_SILENCE_S:
                raise ClusterError(
                    f"Ray job {name}: the cluster has not answered for {silent_s:.0f} s ({error}); the job may go "
                    "on there: materialise again to watch it"
                ) from error
            warn(f"the cluster does not answer ({error}); asking again")
            time.sleep(5 * POLL_INTERVAL_S)
        time.sleep(POLL_INTERVAL_S)


def _stop(client: "JobSubmissionClient", name: str) -> None:
    client.stop_job(name)
    deadline_s = time.monotonic() + MAX_STOP_S
    while not client.get_job_status(name).is_terminal() and time.monotonic() < deadline_s:
        time.sleep(POLL_INTERVAL_S)


def _last_lines(client: "JobSubmissionClient", name: str) -> str:
    return "\n".join(client.get_job_logs(name).splitlines()[-LOG_LINES:])
