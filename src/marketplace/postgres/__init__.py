"""The skill database on PostgreSQL: its session and its SQL."""
