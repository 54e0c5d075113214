"""The data engine, top to bottom: from source videos to shards.

    probe_sources      what is there, and what can be read
    score_clips        decode once: shots, clips, cheap scores; then scores of kept frames of the survivors
    filter_clips       the decision of the thresholds; no video is touched
    deduplicate_clips  of near-duplicates, the best is kept; no video is touched
    caption_clips      captions, how well they agree with the frames, and the named subsets
    write_shards       encode the survivors once and pack them

Each step reads tables and writes tables (`tables.py`), sees what is done already, and may be killed at any
moment: run again, it goes on where it was. Only the steps and `ray_rows` know Ray, which the caller starts.
"""

from pathlib import Path

from data_engine.config import DataEngineConfig
from data_engine.describing import check_chat_models, check_models
from data_engine.ray_rows import OnProgress, check_gpus
from data_engine.report import RunReport, summarize, write_report
from data_engine.scoring import check_scorers
from data_engine.steps.captioning import caption_clips
from data_engine.steps.deciding import deduplicate_clips, filter_clips
from data_engine.steps.probing import probe_sources
from data_engine.steps.scoring import score_clips
from data_engine.steps.sharding import write_shards
from data_engine.tables import DatasetPaths

__all__ = [
    "caption_clips",
    "curate",
    "deduplicate_clips",
    "filter_clips",
    "probe_sources",
    "score_clips",
    "write_shards",
]


def curate(
    config: DataEngineConfig, source: str, dataset: Path, on_progress: OnProgress
) -> RunReport:
    """Turn source videos into a data set. What is done already is not done again.

    Raises:
        JobError: the sources or the weights of a model are missing, the tables are of another version, or the
            cluster lacks the GPU that is asked for.
    """
    paths = DatasetPaths(dataset)
    # Before hours of decoding, since captions come last.
    check_scorers(config.scores)
    check_models(config.scores)
    check_chat_models(config.captions, config.hallucination)
    check_gpus(config.workers.num_gpus)
    probe_sources(config, source, paths, on_progress)
    score_clips(config, paths, on_progress)
    filter_clips(config, paths)
    deduplicate_clips(config, paths)
    caption_clips(config, paths, on_progress)
    write_shards(config, paths, on_progress)
    write_report(config, paths)
    return summarize(paths)
