"""The columns that are known of each sample of a shard."""

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("media", pa.string()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("caption", pa.string()),
        ("has_caption", pa.bool_()),
        ("original_caption", pa.string()),
        ("num_frames", pa.int32()),
        ("fps", pa.float32()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("subsets", pa.list_(pa.string())),
        ("channels", pa.int16()),
        ("latent_height", pa.int16()),
        ("latent_width", pa.int16()),
        ("text_offset", pa.int64()),
        ("text_size_bytes", pa.int64()),
    ]
)
