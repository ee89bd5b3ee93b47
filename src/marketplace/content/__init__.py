"""The skills themselves, byte for byte: the archive, and who may have what of it."""
