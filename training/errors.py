"""Every error that training raises on purpose: each is shown to the user as one line.

TrainingError
|-- DataError           the shards are missing, broken or hold no usable clip
|-- CheckpointError     a checkpoint is missing, damaged or of another version
|-- TrainError          a run cannot start or go on
|   `-- StoppedError    a stage was asked to stop, and did so with a checkpoint
|-- WorkerError         a worker process was lost; the same again goes on where it was
|-- PlanError           a run does not fit on the GPUs that it is planned for, or they are unknown
|-- GenerateError       a video cannot be made from this run
`-- EvaluationError     videos cannot be judged: too few, unreadable, or without the data or model asked for
"""


class TrainingError(ValueError):
    """Base of all errors below; the message says what was found, expected and to be done."""


class DataError(TrainingError):
    """The shards are missing, broken, or hold no clip that the stage can use."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or was written by another version."""


class TrainError(TrainingError):
    """A run cannot start or go on."""


class StoppedError(TrainError):
    """A stage was asked to stop before its end, and has saved the step it came to."""


class WorkerError(TrainingError):
    """A worker process died, or failed for no reason that the user could mend; the same again goes on where it was."""


class PlanError(TrainingError):
    """A run cannot be laid out on the GPUs it is planned for: too little memory, or an unknown GPU."""


class GenerateError(TrainingError):
    """A video cannot be made: no finished run, unreadable image, unsuitable stage."""


class EvaluationError(TrainingError):
    """Videos cannot be judged: too few, unreadable, or the data or model asked for is not there."""
