"""A piece of work as a Ray job on a cluster, watched from a Dagster run.

The name of a job follows from what it does. Whoever asks for the same work while it is under way watches that job
instead of starting a second one: a run that is started again after the daemon or the machine of Dagster was lost, or
after somebody clicked twice. The request and the messages of a job lie in a folder that the cluster sees too.
"""

import fcntl
import hashlib
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Container, Generator, Mapping
from contextlib import ExitStack, contextmanager
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
LOG_INTERVAL_S = 5.0
MAX_LOG_CHARACTERS = 1_000_000
"""Of what a job prints, so much is copied; Ray hands out only the whole log."""
PLACE = "stiv_place"
"""The metadata of a job that says which folder it writes."""


@dataclass(frozen=True)
class JobRequest:
    """Which work, with which arguments, all plain values, and the folder that it writes."""

    work: str
    arguments: Mapping[str, Any]
    place: str

    def to_json(self) -> str:
        # Not sorted: the stages of a configuration have an order.
        return json.dumps({"work": self.work, "arguments": dict(self.arguments)})

    @property
    def base_name(self) -> str:
        return f"stiv-{self.work}-{_digest(self.to_json())}"


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
    with ExitStack() as turn:
        name, is_new = turn.enter_context(_turn(client, folder, request, context.log.info))
        files = folder / name
        files.mkdir(exist_ok=True)
        messages = _Messages(files / "messages.jsonl", on_progress)
        log = _Log(client, name)
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), messages) as session:
            if is_new:
                _submit(client, name, files, request, session.get_bootstrap_env_vars())
                context.log.info(f"submitted Ray job {name} to {address}; it prints to stdout")
            else:
                context.log.info(f"Ray job {name} is under way at {address}: watching it")
            turn.close()
            try:
                status = _wait(client, name, log, context.log.warning)
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
                # The run was terminated, and nobody is left who wants the result. Dagster would try the step again, as it
                # does whatever a step with a policy ends with.
                _stop(client, name)
                raise dg.Failure(
                    description=f"the run was terminated, and Ray job {name} with it",
                    allow_retries=False,
                ) from error
    return messages.result_of(name, status, log)


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

    def result_of(self, name: str, status: str, log: "_Log") -> Result:
        """What the job gave.

        Raises:
            dg.Failure: it failed or was stopped.
        """
        if status == "SUCCEEDED":
            return self._end.get("result")
        if "error" in self._end:
            raise dg.Failure(self._end["error"], allow_retries=self._end["may_pass"])
        # Whoever stopped it does not want it again.
        raise dg.Failure(
            f"Ray job {name} ended as {status}:\n{log.last_lines()}",
            allow_retries=status != "STOPPED",
        )

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


class _Log:
    """What a job prints, copied to our own output, which Dagster shows with the step."""

    def __init__(self, client: "JobSubmissionClient", name: str) -> None:
        self._client = client
        self._name = name
        self._text = ""
        self._num_copied = 0
        self._due_s = 0.0

    def follow(self) -> None:
        """Copy what is new every few seconds."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + LOG_INTERVAL_S
            if self._num_copied < MAX_LOG_CHARACTERS:
                self.copy()

    def copy(self) -> None:
        try:
            self._text = self._client.get_job_logs(self._name)
        except (OSError, RuntimeError):
            # The node that keeps it does not answer; what was read before stays.
            return
        new = self._text[self._num_copied : MAX_LOG_CHARACTERS]
        self._num_copied += len(new)
        sys.stdout.write(new)
        if new and self._num_copied == MAX_LOG_CHARACTERS:
            sys.stdout.write(f"\n... the rest is in the log of Ray job {self._name}\n")
        sys.stdout.flush()

    def last_lines(self) -> str:
        return "\n".join(self._text.splitlines()[-LOG_LINES:])


@contextmanager
def _turn(
    client: "JobSubmissionClient", folder: Path, request: JobRequest, tell: Callable[[str], None]
) -> Generator[tuple[str, bool]]:
    """The name of the job under way that does this, or else a new name and True.

    While the block runs, no other job writes the folder of the request, and nobody else decides about it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told: set[str] = set()
    while True:
        # Let go of while others work, so that somebody who asks for the same as they do can watch them.
        with (folder / f"{_digest(request.place)}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            jobs = client.list_jobs()
            writers = [
                str(job.submission_id)
                for job in jobs
                if (job.metadata or {}).get(PLACE) == request.place and not job.status.is_terminal()
            ]
            same = [name for name in writers if name.rpartition("-")[0] == request.base_name]
            if same or not writers:
                taken = {job.submission_id for job in jobs}
                yield same[0] if same else _new_name(folder, request, taken), not same
                return
        for name in set(writers) - told:
            tell(f"waiting for Ray job {name}, which works on {request.place}")
        told.update(writers)
        time.sleep(POLL_INTERVAL_S)


def _new_name(folder: Path, request: JobRequest, taken: Container[str | None]) -> str:
    """Ray takes each name once. A head that was started again knows none, but their messages are still there."""
    names = (f"{request.base_name}-{number}" for number in itertools.count())
    return next(name for name in names if name not in taken and not (folder / name).exists())


def _submit(
    client: "JobSubmissionClient",
    name: str,
    files: Path,
    request: JobRequest,
    variables: Mapping[str, str],
) -> None:
    path = files / "request.json"
    path.write_text(request.to_json())
    client.submit_job(
        entrypoint=shlex.join([sys.executable, "-m", "orchestration.ray_job_main", str(path)]),
        submission_id=name,
        # The driver only waits; its workers ask for what they need.
        entrypoint_num_cpus=0,
        runtime_env={"env_vars": dict(variables)},
        metadata={PLACE: request.place},
    )


def _wait(client: "JobSubmissionClient", name: str, log: _Log, warn: Callable[[str], None]) -> str:
    """The last state of the job. A cluster that is silent for a while is asked again."""
    answered_s = time.monotonic()
    while True:
        try:
            status = client.get_job_status(name)
            answered_s = time.monotonic()
            if status.is_terminal():
                log.copy()
                return str(status.value)
            log.follow()
        except (OSError, RuntimeError) as error:
            _refuse_forgotten(client, name)
            silent_s = time.monotonic() - answered_s
            if silent_s > MAX_SILENCE_S:
                raise ClusterError(
                    f"Ray job {name}: the cluster has not answered for {silent_s:.0f} s ({error}); the job may go "
                    "on there: materialise again to watch it"
                ) from error
            warn(f"the cluster does not answer ({error}); asking again")
            time.sleep(5 * POLL_INTERVAL_S)
        time.sleep(POLL_INTERVAL_S)


def _refuse_forgotten(client: "JobSubmissionClient", name: str) -> None:
    """A head that was started again answers, but knows none of the jobs of the one before.

    Raises:
        dg.Failure: it does.
    """
    try:
        known = {job.submission_id for job in client.list_jobs()}
    except (OSError, RuntimeError):
        return
    if name not in known:
        raise dg.Failure(
            f"Ray job {name} is lost: the cluster was started again and does not know it; the same again goes on "
            "where it was"
        )


def _stop(client: "JobSubmissionClient", name: str) -> None:
    client.stop_job(name)
    deadline_s = time.monotonic() + MAX_STOP_S
    while not client.get_job_status(name).is_terminal() and time.monotonic() < deadline_s:
        time.sleep(POLL_INTERVAL_S)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
