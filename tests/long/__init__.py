"""What takes too long for every run: `python -m local test tests/long/NAME.py`."""
