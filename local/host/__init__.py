"""Runs the marketplace: PostgreSQL, the Worker with its bindings, and cron."""
