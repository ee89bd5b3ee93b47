"""Measurements of the running marketplace."""
