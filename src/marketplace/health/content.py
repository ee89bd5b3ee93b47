"""A walk over the archive of content in bounded steps, beside the digests that skills name.

The digests are cut into BUCKETS by their first two digits. Each check counts some of them: what is
stored of a bucket, and PostgreSQL tells how that differs from what is named.
"""

from datetime import timedelta
from typing import Final

import msgspec

from marketplace.content import archive
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.database import ContentGroup, SkillDatabase
from marketplace.ports.env import Env, get_content_store, get_db
from marketplace.skills.licenses import is_open

BUCKETS: Final = 256
BUCKETS_A_STEP: Final = 32  # 220,000 digests have one list call in each; a walk takes eight checks
_STEP_CALLS: Final = 100  # list calls after which a step ends, whatever a bucket has
_STEP_SECONDS: Final = 30.0
EXAMPLES: Final = 5

CONTENT_WALK: Final = "content-walk"


class ContentCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk has counted, in digests. ``finished_at``: empty while it is under way.

    ``skills_without``: listed skills that name no archive. ``not_uploaded``: named by a listed
    skill under a licence that lets them be kept; with some of the skills. ``not_named``: stored,
    and no skill or version names them. ``not_licensed``: stored, and none names them under such a
    licence; with some of them.
    """

    stored: int = 0
    bytes: int = 0
    purged: int = 0
    skills_without: int = 0
    not_uploaded: int = 0
    not_uploaded_of: tuple[str, ...] = ()
    not_named: int = 0
    not_licensed: int = 0
    not_licensed_ones: tuple[str, ...] = ()
    finished_at: str = ""


class _Walk(msgspec.Struct, frozen=True, kw_only=True):
    bucket: int = 0  # the next one
    counts: ContentCounts = ContentCounts()
    last: ContentCounts | None = None  # of the last complete walk


async def count_content(env: Env) -> None:
    """Make a step of the walk. Raises DatabaseError, ContentError."""
    get_content_store(env)
    database = await get_db(env)
    walk = before = await load_place(env, database, CONTENT_WALK, _Walk())
    deadline, calls = env.clock() + timedelta(seconds=_STEP_SECONDS), 0
    for _ in range(BUCKETS_A_STEP):
        counts, listed = await _count_bucket(env, database, walk)
        calls += listed
        walk = await _moved(env, database, walk, counts)
        if calls >= _STEP_CALLS or env.clock() >= deadline:
            break
    await save_place(database, CONTENT_WALK, walk, before=before)


def read_counts(document: bytes | None) -> ContentCounts | None:
    """What the last complete walk has counted, of the document that is kept."""
    if document is None:
        return None
    try:
        return msgspec.json.decode(document, type=_Walk).last
    except msgspec.DecodeError:  # the next step makes it anew, and logs it
        return None


async def _moved(env: Env, database: SkillDatabase, walk: _Walk, counts: ContentCounts) -> _Walk:
    if walk.bucket + 1 < BUCKETS:
        return msgspec.structs.replace(walk, bucket=walk.bucket + 1, counts=counts)
    complete = msgspec.structs.replace(
        counts, skills_without=await database.count_without_content(), finished_at=env.now()
    )
    return _Walk(last=complete)


async def _count_bucket(
    env: Env, database: SkillDatabase, walk: _Walk
) -> tuple[ContentCounts, int]:
    """The counts with those of the next bucket, and how many list calls it took."""
    prefix = f"{walk.bucket:02x}"
    digests: list[str] = []
    sizes: list[int] = []
    cursor: str | None = None
    calls = 0
    while calls == 0 or cursor is not None:
        page = await archive.list_page(env, prefix=prefix, cursor=cursor)
        digests += page.digests
        sizes += page.sizes
        cursor, calls = page.cursor, calls + 1
    end = f"{walk.bucket + 1:02x}" if walk.bucket + 1 < BUCKETS else "g"
    purged = [digest for digest, size in zip(digests, sizes, strict=True) if size == 0]
    stored = [digest for digest, size in zip(digests, sizes, strict=True) if size > 0]
    groups = await database.compare_content(stored, purged, begin=prefix, end=end)
    counts = walk.counts
    for group in groups:
        counts = _with_group(env, counts, group)
    counts = msgspec.structs.replace(
        counts,
        stored=counts.stored + len(stored),
        bytes=counts.bytes + sum(sizes),
        purged=counts.purged + len(purged),
    )
    return counts, calls


def _with_group(env: Env, counts: ContentCounts, group: ContentGroup) -> ContentCounts:
    licenses = env.settings.content_licenses
    replace, number = msgspec.structs.replace, group.number
    if group.licenses is None:
        return replace(counts, not_named=counts.not_named + number)
    is_kept = any(is_open(each, licenses) for each in group.licenses)
    if group.is_stored and not is_kept:
        ones = (*counts.not_licensed_ones, group.digest)[:EXAMPLES]
        not_licensed = counts.not_licensed + number
        return replace(counts, not_licensed=not_licensed, not_licensed_ones=ones)
    if not group.is_stored and is_kept:
        names = (*counts.not_uploaded_of, *filter(None, [group.name]))[:EXAMPLES]
        not_uploaded = counts.not_uploaded + number
        return replace(counts, not_uploaded=not_uploaded, not_uploaded_of=names)
    return counts
