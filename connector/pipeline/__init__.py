"""Pipeline of one shard: read pages of call records, deduplicate them, and publish them in transactions."""
