"""One partition per source batch: a folder of videos below HOME/sources."""

import dagster as dg

source_batches = dg.DynamicPartitionsDefinition(name="source_batch")
