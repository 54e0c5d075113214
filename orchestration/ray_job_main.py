"""What a Ray job on a cluster runs: `python -m orchestration.ray_job_main REQUEST.json` does one piece of work.

The request names the work and its arguments; progress and the result go back to Dagster through Pipes, if Dagster
submitted the job.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dagster_pipes import PipesContext, open_dagster_pipes

from orchestration.errors import PASSING_ERRORS, USER_ERRORS
from orchestration.ray_session import JOINED, ray_session
from orchestration.work import WorkProgress, do_work


def main(request_path: Path) -> int:
    """The exit status: 0, or 2 after what was reported in one line: a mistake of the user, or a lost process."""
    request = json.loads(request_path.read_bytes())
    with open_dagster_pipes() as pipes:
        try:
            with ray_session(JOINED):
                result = do_work(request["work"], request["arguments"], _reporter(pipes))
        except USER_ERRORS as error:
            may_pass = isinstance(error, PASSING_ERRORS)
            pipes.report_custom_message({"error": str(error), "may_pass": may_pass})
            print(f"error: {error}", file=sys.stderr)  # noqa: T201  (the log of the Ray job)
            return 2
        pipes.report_custom_message({"result": result})
    return 0


def _reporter(pipes: PipesContext) -> Callable[[WorkProgress], None]:
    def report(progress: WorkProgress) -> None:
        pipes.report_custom_message({"progress": asdict(progress)})

    return report


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
