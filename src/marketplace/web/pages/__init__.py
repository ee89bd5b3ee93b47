"""The pages that are made for people."""
