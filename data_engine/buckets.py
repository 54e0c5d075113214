"""Which clips may share a shard: those of like shape, length and size, so that a trainer can batch them unpadded."""

from bisect import bisect_right

from data_engine.config import ShardConfig
from data_engine.container import fit_short_side
from data_engine.schema import ClipRecord

# Width over height at which one named shape gives way to the next: the geometric means of the shapes.
_SHAPES = ("9x16", "3x4", "1x1", "4x3", "16x9")
_SHAPE_EDGES = (0.65, 0.87, 1.15, 1.54)


def encoded_size(record: ClipRecord, config: ShardConfig) -> tuple[int, int]:
    """Height and width in pixels after encoding."""
    return fit_short_side(*record.picture_size_px, config.short_side_px)


def bucket_of(record: ClipRecord, config: ShardConfig) -> str:
    """Shape, length and short side, such as `16x9-2to5s-256p`. Every clip has one; none is too short for all."""
    height_px, width_px = encoded_size(record, config)
    shape = _SHAPES[bisect_right(_SHAPE_EDGES, width_px / height_px)]
    edges = config.duration_edges_s
    position = bisect_right(edges, record.duration_s)
    low = edges[position - 1] if position else 0
    length = f"{low:g}to{edges[position]:g}s" if position < len(edges) else f"over{low:g}s"
    return f"{shape}-{length}-{min(height_px, width_px)}p"
