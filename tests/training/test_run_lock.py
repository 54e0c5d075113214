import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import TrainError
from training.run_lock import locked

HOLD = (
    "import sys, time; from pathlib import Path; from training.run_lock import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
)


def test_a_second_trainer_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "run" / "trainer.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(TrainError, match=f"another trainer .process {first.pid} on"),
            locked(path),
        ):
            pass
        first.kill()
        with locked(path, wait_s=30):
            assert f'"pid": {os.getpid()}' in path.read_text()
    with locked(path):
        pass
