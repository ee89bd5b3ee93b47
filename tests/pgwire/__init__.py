"""The PostgreSQL client, on bytes and on a real server."""
