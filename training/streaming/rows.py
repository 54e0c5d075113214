"""The columns that are known of each sample of a shard."""

import pyarrow as pa

# Large: the ids and captions of some ten million samples are more than the 2 GiB that offsets of 32 bits reach.
_TEXT = pa.large_string()

SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("media", _TEXT),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("captions", pa.list_(_TEXT)),
        ("caption_sources", pa.list_(_TEXT)),
        ("has_caption", pa.bool_()),
        ("num_frames", pa.int32()),
        ("fps", pa.float32()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("subsets", pa.list_(_TEXT)),
        ("channels", pa.int16()),
        ("latent_height", pa.int16()),
        ("latent_width", pa.int16()),
        ("text_width", pa.int32()),
        ("pooled_text_width", pa.int32()),
        # Of latents, three numbers for each caption: where its tokens begin in the shard, how many they are, and where
        # the pooled vector begins.
        ("text_places", pa.list_(pa.int64())),
    ]
)
