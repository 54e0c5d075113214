"""Builders with defaults: a test names only what it is about."""

from typing import Any

from data_engine.schema import Caption, ClipRecord, Score, clip_id


def clip_record(**changes: Any) -> ClipRecord:
    values: dict[str, Any] = {
        "source_id": "0123456789abcdef",
        "source_uri": "film.mp4",
        "start_s": 0.0,
        "end_s": 4.0,
        "fps": 24.0,
        "num_frames": 96,
        "shot_index": 0,
        "height_px": 360,
        "width_px": 640,
        **changes,
    }
    span = (values["source_id"], values["start_s"], values["end_s"])
    values.setdefault("clip_id", clip_id(*span))
    return ClipRecord(**values)


def scores(**values: float) -> dict[str, Score]:
    return {name: Score(value=value, backend="test") for name, value in values.items()}


def caption(text: str = "A cat. Little movement.", source: str = "original") -> Caption:
    return Caption(text=text, source=source, model="test")
