"""Where everything of a data set lies.

A data set is a folder::

    config.json               the resolved configuration
    sources.parquet           readable source videos
    quarantine.parquet        sources that could not be read, with the reason
    undecodable.parquet       sources that stopped decoding later, with the reason
    probed/*.parquet          append-only: what probing said of a file, by what the listing says of it
    cuts/<source_id>.parquet  what the decode pass of one source found; its frames lie beside it
    parts/<source_id>/        what was decoded of a long source, in parts, until all of it is
    scores/*.parquet          append-only: what the scorers of frames said, by clip, scorer and version
    captions/*.parquet        append-only: captions and what was wrong with them, by clip, captioner and version
    judgements/*.parquet      append-only: what was said of a caption, by clip, caption, judge and version
    encoded/??/*.mp4          survivors at training size; may be deleted once the shards are written
    scored_clips.parquet      every clip with its scores, no decision
    filtered_clips.parquet    every clip with the decision of the filters
    deduplicated_clips.parquet  those that were kept; near-duplicates rejected
    captioned_clips.parquet   those that were still kept, with captions
    sharded_clips.parquet     those that were still kept, after encoding
    shards/                   WebDataset tars and manifest.json
    skipped.json              how many files of the source folder are not videos, by suffix
    damaged.json              how many frames of a source are in no clip because they were damaged, by its name
    throughput.json           how long each stage took when it last had work to do
    report/                   index.html and its pictures
    report/clips/             a place for each clip, by its id (`clip_pages.py`)
"""

from dataclasses import dataclass
from pathlib import Path

DATASET_FOLDERS = frozenset(
    {"probed", "cuts", "parts", "scores", "captions", "judgements", "encoded", "shards", "report"}
)
"""The folders of a data set, by name."""


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a data set, or the beginning of one."""
    paths = DatasetPaths(folder)
    return paths.config.is_file() and (paths.lock.exists() or paths.sources.exists())


@dataclass(frozen=True)
class DatasetPaths:
    """Where everything of one data set lies. The root is made absolute: workers have folders of their own."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.resolve())

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def skipped(self) -> Path:
        return self.root / "skipped.json"

    @property
    def damaged(self) -> Path:
        return self.root / "damaged.json"

    @property
    def sources(self) -> Path:
        return self.root / "sources.parquet"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine.parquet"

    @property
    def throughput(self) -> Path:
        return self.root / "throughput.json"

    @property
    def undecodable(self) -> Path:
        return self.root / "undecodable.parquet"

    @property
    def probed(self) -> Path:
        return self.root / "probed"

    def cuts(self, source_id: str) -> Path:
        return self.root / "cuts" / f"{source_id}.parquet"

    def frames(self, source_id: str) -> Path:
        return self.root / "cuts" / f"{source_id}.frames.parquet"

    def parts(self, source_id: str) -> Path:
        return self.root / "parts" / source_id

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def captions(self) -> Path:
        return self.root / "captions"

    @property
    def judgements(self) -> Path:
        return self.root / "judgements"

    @property
    def scored_clips(self) -> Path:
        return self.root / "scored_clips.parquet"

    @property
    def filtered_clips(self) -> Path:
        return self.root / "filtered_clips.parquet"

    @property
    def deduplicated_clips(self) -> Path:
        return self.root / "deduplicated_clips.parquet"

    def encoded(self, made_from: str) -> Path:
        """The MP4 file of one clip. Spread over folders, since there may be millions."""
        return self.root / "encoded" / made_from[:2] / f"{made_from}.mp4"

    @property
    def captioned_clips(self) -> Path:
        return self.root / "captioned_clips.parquet"

    @property
    def sharded_clips(self) -> Path:
        return self.root / "sharded_clips.parquet"

    @property
    def decided_clips(self) -> tuple[Path, ...]:
        """Tables of clips with decisions, in the order in which they are taken."""
        later = (self.deduplicated_clips, self.captioned_clips, self.sharded_clips)
        return self.filtered_clips, *later

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def clip_pages(self) -> Path:
        return self.report / "clips"
