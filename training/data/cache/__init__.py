"""The activation cache: a folder of shards with a manifest, written once and read in batches."""
