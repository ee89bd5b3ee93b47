"""The KV side of the marketplace, in one import: published records, aliases, outbox, submissions.

The parts: ``kv_keys`` (names), ``kv_access`` (bounded calls), ``kv_records``, ``kv_aliases``,
``kv_outbox``, ``kv_submissions``. The index is in ``published_index``.
"""

from marketplace.kv_access import MAX_RECORD_BYTES, list_all_keys
from marketplace.kv_aliases import MAX_ALIAS_HOPS, mark_moved, resolve_alias, write_alias
from marketplace.kv_outbox import (
    OutboxEntry,
    clear_outbox,
    list_outbox,
    list_outbox_summaries,
    write_outbox,
)
from marketplace.kv_records import (
    Alias,
    Malformed,
    Moved,
    PublishedPage,
    Record,
    decode_metadata,
    encode_metadata,
    enumerate_published_skills,
    read_record,
    read_records,
    write_record,
)
from marketplace.kv_submissions import (
    PendingSubmission,
    create_submission,
    find_by_identity,
    get_publications,
    get_scans,
    get_submission,
    get_submissions,
    oldest_pending,
    record_publication,
    record_scan,
    submission_status,
)

__all__ = [
    "MAX_ALIAS_HOPS",
    "MAX_RECORD_BYTES",
    "Alias",
    "Malformed",
    "Moved",
    "OutboxEntry",
    "PendingSubmission",
    "PublishedPage",
    "Record",
    "clear_outbox",
    "create_submission",
    "decode_metadata",
    "encode_metadata",
    "enumerate_published_skills",
    "find_by_identity",
    "get_publications",
    "get_scans",
    "get_submission",
    "get_submissions",
    "list_all_keys",
    "list_outbox",
    "list_outbox_summaries",
    "mark_moved",
    "oldest_pending",
    "read_record",
    "read_records",
    "record_publication",
    "record_scan",
    "resolve_alias",
    "submission_status",
    "write_alias",
    "write_outbox",
    "write_record",
]
