"""Many workers, many tenants: how long shards stand still when workers come and go, and what 500 tenants cost."""
