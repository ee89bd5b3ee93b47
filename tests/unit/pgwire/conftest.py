"""Hypothesis for the client's tests."""

from hypothesis import settings

# What an example takes depends on the machine's load, not on the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
