"""Running the marketplace on one machine: packages, runtime bundle, PostgreSQL, miniflare."""
