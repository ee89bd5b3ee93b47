"""Prepares what a run needs: packages, lock files, runtime bundle, local secrets, schema."""
