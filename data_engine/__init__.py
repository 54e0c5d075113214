"""Raw video in, captioned WebDataset shards out."""
