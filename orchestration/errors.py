"""What a user can mend: shown as one line, by the command line and in the Dagster UI alike."""

from data_engine.errors import JobError
from data_engine.schema import SchemaError
from modeling.errors import AutoencoderError, PretrainedError, TextEncoderError, WeightFlowError
from orchestration.overrides import OverrideError
from orchestration.ray_session import ClusterError
from training.errors import TrainingError, WorkerError

USER_ERRORS = (
    *(JobError, SchemaError, OverrideError, ClusterError, TrainingError),
    *(AutoencoderError, PretrainedError, TextEncoderError, WeightFlowError),
    # A path that cannot be written or read: the message of the system names it.
    *(PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError),
)
"""Everything else is a defect of ours and keeps its traceback."""

PASSING_ERRORS = (ClusterError, WorkerError)
"""Of these, what is no mistake: the same again may succeed, and goes on where it was."""
