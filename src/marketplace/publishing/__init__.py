"""The way from a submission to a published skill."""
