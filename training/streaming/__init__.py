"""From shards to batches: an order that is a pure function of the step, and reads by position."""
