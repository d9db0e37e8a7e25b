"""Pipeline of one shard: it reads call records page by page, deduplicates them, and publishes them in transactions."""
