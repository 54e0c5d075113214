"""Which fields of a run say where it happens, not what it computes."""

from typing import Any

PLACEMENT_FIELDS: dict[str, Any] = {
    "num_workers": True,
    "min_workers": True,
    "resize_check_s": True,
    "max_worker_failures": True,
    "threads_per_worker": True,
    "recompute": True,
    "sharding": True,
    "shard_group_size": True,
    "average_on_cpu": True,
    "compile_blocks": True,
    "peak_tflops": True,
    "trackers": True,
    "stages": {
        "__all__": {
            "micro_batch_size": True,
            "keep_every_steps": True,
            "max_skipped_steps": True,
            "previews": True,
            "validation": {"every_steps", "batch_size", "num_batches"},
        }
    },
    "data": {
        "cache_bytes",
        "loader_workers",
        "prefetch_batches",
        "timeout_s",
        "max_loader_restarts",
    },
    "encoders": {"kl": {"frames_at_once"}},
}
"""For pydantic's `exclude`: they may change when a run is resumed."""
