"""Named configurations of the data engine, as functions."""

from collections.abc import Callable

from data_engine.config import DataEngineConfig, FilterConfig, ScoreConfig, ShardConfig, ShotConfig


def demo() -> DataEngineConfig:
    """Runs on a laptop with the embedded models; small clips, to train a tiny model on."""
    return DataEngineConfig(
        shots=ShotConfig(max_clip_s=5.0),
        shards=ShardConfig(short_side_px=144, max_clips=32, duration_edges_s=(2.0, 5.0)),
    )


def stiv_256() -> DataEngineConfig:
    """For training at 256x256, 20 frames at stride 3 (STIV, appendix B): at least 2.5 s of 24 fps.

    The paper filters by motion and aesthetic scores without naming thresholds (section 3.5); these are ours. The
    image-text score is that of an open_clip model, whose weights must be at hand.
    """
    return DataEngineConfig(
        shots=ShotConfig(max_clip_s=10.0),
        scores=ScoreConfig(similarity="open_clip"),
        filters=FilterConfig(
            min_duration_s=2.5, min_height_px=256.0, min_consistency=0.6, min_clip_similarity=0.15
        ),
        shards=ShardConfig(short_side_px=288),
    )


RECIPES: dict[str, Callable[[], DataEngineConfig]] = {"demo": demo, "stiv_256": stiv_256}
