"""Everything that the marketplace keeps in KV."""
