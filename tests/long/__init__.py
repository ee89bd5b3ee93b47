"""What takes too long for `make test`: `make test-long`, of which `python -m tests.long` is a part."""
