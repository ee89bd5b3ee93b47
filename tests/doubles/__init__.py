"""What stands in for the platform: KV, PostgreSQL, queues, time, and a marketplace on them."""
