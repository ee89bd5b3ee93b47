"""What takes too long for `make test`: a part of `make test-long`."""
