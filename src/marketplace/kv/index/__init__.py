"""The index ``skills:published-index``: a cache of all listing summaries, never a source of truth.

One manifest names the pages of its generation. Pages are written first, each under a key that no
other generation uses, and the manifest last, so that a reader sees one generation or another and
never half of each. What was published since is in the manifest's bounded ``recent`` list.

Everything in it can be made again from the records (`IndexWriter`), so whatever is wrong with it
is reported in `IndexReading.problems` and not raised: only KV itself failing raises KvError.
"""
