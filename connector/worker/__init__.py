"""Worker process: start-up, ownership of shards, reload and shutdown."""
