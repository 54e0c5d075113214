"""Every error that the data engine raises on purpose.

DataEngineError
|-- JobError                the whole job cannot go on; shown to the user as one line
|   |-- SourceError             the place that should hold videos is missing or empty
|   |-- SamplesError            the sample videos cannot be fetched or do not match their hash
|   |-- BusyError               another process works on the same data set
|   |-- DetectorError           the shot detector that was asked for is not installed
|   `-- TableError              a table is missing, or another version wrote it
`-- RowError                one video or clip cannot be processed; becomes a row with a reason
    |-- UnreadableSourceError   not a video, truncated, over a limit (`reason` is a short word)
    |-- DecodeError             frames could not be decoded
    `-- IndivisibleError        parts of a source do not fit together; it is decoded undivided
"""


class DataEngineError(Exception):
    """Base of all errors below."""


class JobError(DataEngineError):
    """The job stops; the message says what was found, what was expected and what to do."""


class SourceError(JobError):
    """The place that should hold source videos is missing or empty."""


class SamplesError(JobError):
    """The sample videos cannot be fetched, or are not the ones that were pinned."""


class BusyError(JobError):
    """Another process works on the same data set."""


class DetectorError(JobError):
    """The shot detector that was asked for needs a package that is not installed."""


class TableError(JobError):
    """A table is missing, or was written by another version of the schema."""


class RowError(DataEngineError):
    """One row fails; the job goes on."""


class UnreadableSourceError(RowError):
    """A source video cannot be used. `reason` is a short stable word for the quarantine table."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def is_transient(self) -> bool:
        """Whether it says more of the way to the source, now, than of the source: another run may find it usable."""
        return self.reason == "unreachable"

    def __reduce__(self) -> tuple[type["UnreadableSourceError"], tuple[str, str]]:
        # Exceptions with two arguments do not survive pickling between Ray processes otherwise.
        return type(self), (self.reason, self.detail)


class DecodeError(RowError):
    """Frames of a readable source could not be decoded."""


class IndivisibleError(RowError):
    """A source cannot be decoded in parts; decode it undivided."""
