"""Many workers and tenants: how long shards pause when workers come and go, and what 500 tenants cost."""
