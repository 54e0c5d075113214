"""Indexes of samples that are not there: the order of samples needs no bytes."""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from training.streaming.index import SampleIndex
from training.streaming.rows import SCHEMA

FACTS: dict[str, Any] = {
    "media": "video",
    "offset": 0,
    "size_bytes": 1,
    "captions": ["a caption"],
    "caption_sources": ["template"],
    "has_caption": True,
    "num_frames": 30,
    "fps": 24.0,
    "height_px": 48,
    "width_px": 80,
    "subsets": [],
    "channels": 0,
    "latent_height": 0,
    "latent_width": 0,
    "text_width": 0,
    "pooled_text_width": 0,
    "text_places": [],
}


def index_of(*datasets: list[dict[str, Any]]) -> SampleIndex:
    """Rows of each data set; what they leave out is as in FACTS."""
    tables: list[pa.Table] = []
    for number, rows in enumerate(datasets):
        filled = [{"key": f"{number}-{i:06d}", **FACTS, **row} for i, row in enumerate(rows)]
        tables.append(with_places(pa.Table.from_pylist(filled, schema=SCHEMA), number))
    return with_facts(pa.concat_tables(tables), len(datasets))


def large_index(num_samples: int) -> SampleIndex:
    """So many samples of one data set, all alike but for their keys."""
    columns = {
        f.name: pa.repeat(pa.scalar(FACTS[f.name], f.type), num_samples)
        for f in SCHEMA
        if f.name != "key"
    }
    keys = pa.array(np.arange(num_samples).astype(str))
    table = pa.table({"key": keys, **columns}, schema=SCHEMA)
    return with_facts(with_places(table, 0), 1)


def with_places(table: pa.Table, dataset: int) -> pa.Table:
    for name, kind in (("dataset", pa.int16()), ("shard", pa.int32())):
        table = table.append_column(name, pa.repeat(pa.scalar(dataset, kind), table.num_rows))
    return table


def with_facts(table: pa.Table, num_datasets: int) -> SampleIndex:
    names = [f"/data/{number}" for number in range(num_datasets)]
    facts = {
        "datasets": names,
        "locations": [f"{n}/a.tar" for n in names],
        "identities": names,
        "sizes_bytes": [None for _ in names],
        "fingerprint": "f" * 16,
    }
    return SampleIndex(table.replace_schema_metadata({"index": json.dumps(facts)}).combine_chunks())
