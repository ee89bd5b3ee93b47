"""Reads skills in a repository as a scanner does: a check of form, not an audit.

It runs nothing of what it reads, follows no link and asks no network (but `git.cloned`). What it
reads is bounded, whatever sizes are claimed. It knows nothing of the Worker's code or of the
marketplace's HTTP interface, which `cli/` speaks.
"""
