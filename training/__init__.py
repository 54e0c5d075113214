"""Shards in, trained STIV weights out."""
