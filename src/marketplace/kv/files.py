"""Lists of files of skills, each under the digest of the list: written once, never changed.

A list may have a thousand files, too many for a record or for an entry of the acceptance log.
"""

from collections.abc import Sequence

import msgspec

from marketplace.kv import access as kv_access
from marketplace.kv.access import Stored
from marketplace.kv.keys import files_key
from marketplace.ports.env import Env
from marketplace.skills.scan import File

Files = tuple[File, ...]


async def keep_files(env: Env, digest: str, files: Sequence[File]) -> None:
    """Keep a list for good, under its `files_digest`. Raises KvError."""
    value = msgspec.json.encode(files)
    await kv_access.write_again_if_refused(
        lambda: kv_access.put_value(env, files_key(digest), value)
    )


async def read_files(env: Env, digest: str) -> Stored[Files]:
    """Raises KvError."""
    value = await kv_access.get_value(env, files_key(digest), max_bytes=2 * 1024 * 1024)
    return kv_access.decode_record(value, Files)
