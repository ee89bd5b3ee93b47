"""Dead letters that KV keeps while PostgreSQL is away.

KV has no compare-and-set. Everything here is best effort where two write at once; the database's
methods of the same names are the exact ones.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from marketplace.basics import json_text
from marketplace.kv import access as kv_access
from marketplace.kv.keys import DEAD_LETTER_PREFIX, dead_letter_key, parse_dead_letter_key
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_BULK_GET_LIMIT, KV_METADATA_LIMIT, KvKey
from marketplace.skills.stored import InvalidRecord

MAX_LETTER_PAGES: Final = 20
"""List pages that one look at the dead letters reads: 20,000 letters."""


class _LetterMark(msgspec.Struct, frozen=True, array_like=True, tag="d3"):
    """Metadata of a failure: enough to filter and count without its value."""

    reason: str
    redriven_at: str | None
    redrives: int


async def store_dead_letter(env: Env, letter: DeadLetter) -> None:
    """Keep one failure, or what became of it. Raises KvError, InvalidRecord."""
    value = msgspec.json.encode(letter)
    if len(value) > kv_access.MAX_RECORD_BYTES:
        raise InvalidRecord(f"a letter of {len(value)} bytes")
    key = dead_letter_key(letter.id, letter.failed_at)
    await kv_access.put_value(env, key, value, metadata=_mark(letter))


def _mark(letter: DeadLetter) -> str | None:
    mark = _LetterMark(letter.reason, letter.redriven_at, letter.redrives)
    text = msgspec.json.encode(mark).decode()
    return text if len(msgspec.json.encode(text)) <= KV_METADATA_LIMIT else None


async def list_dead_letters(
    env: Env, *, reason: str | None, after: str | None, limit: int
) -> list[DeadLetter]:
    """Letters not redriven, ordered by id, after the id ``after``. Raises KvError.

    Reads from the start, as KV cannot begin a list at a key; at most MAX_LETTER_PAGES pages.
    """
    waiting = [
        mark.key
        for letter_id, mark in (await _latest_marks(env)).items()
        if (after is None or letter_id > after)
        and mark.is_open
        and reason in (None, mark.reason or reason)
    ]
    return await _read_first(env, waiting, lambda x: reason in (None, x.reason), limit)


async def list_redrivable(
    env: Env,
    *,
    reasons: Collection[str] | None,
    failed_until: str | None,
    max_redrives: int | None,
    limit: int,
) -> list[DeadLetter]:
    """As ``SkillDatabase.list_redrivable``, within MAX_LETTER_PAGES pages. Raises KvError."""

    def fits(reason: str, redrives: int) -> bool:
        return (reasons is None or reason in reasons) and (
            max_redrives is None or redrives <= max_redrives
        )

    marks = (await _latest_marks(env)).values()
    waiting = [
        mark.key
        for mark in sorted(marks, key=lambda mark: mark.moment)
        if mark.is_open
        and (failed_until is None or mark.moment <= failed_until)
        and (mark.reason is None or fits(mark.reason, mark.redrives))
    ]
    return await _read_first(
        env,
        waiting,
        lambda x: isinstance(x.body, Mapping) and fits(x.reason, x.redrives),
        limit,
    )


async def _read_first(
    env: Env, keys: Sequence[str], wanted: Callable[[DeadLetter], bool], limit: int
) -> list[DeadLetter]:
    """The first ``limit`` open letters under these keys that are wanted, past all others."""
    letters: list[DeadLetter] = []
    for chunk in kv_access.chunks(keys, min(limit, KV_BULK_GET_LIMIT)):
        found = (await _read_letters(env, chunk)).values()
        letters += [letter for letter in found if letter.is_open and wanted(letter)]
        if len(letters) >= limit:
            break
    return letters[:limit]


async def get_dead_letters(env: Env, ids: Sequence[str]) -> list[DeadLetter]:
    """The latest state of these letters, redriven or not; unknown ids are left out.

    A letter that cannot be read is logged and left out. Raises KvError.
    """
    latest = await _latest_marks(env)
    keys = [latest[letter_id].key for letter_id in ids if letter_id in latest]
    return list((await _read_letters(env, keys)).values())


async def count_dead_letters(env: Env) -> Mapping[str, int]:
    """Letters not redriven, per reason, from list pages alone. Raises KvError."""
    waiting = (mark for mark in (await _latest_marks(env)).values() if mark.redriven_at is None)
    return Counter(mark.reason or "unknown" for mark in waiting)


async def list_letter_records(env: Env, *, limit: int) -> Mapping[str, DeadLetter]:
    """Up to ``limit`` failures as they are kept, by key, past those that cannot be read.

    Raises KvError.
    """
    letters: dict[str, DeadLetter] = {}
    pages = kv_access.list_all_keys(env, DEAD_LETTER_PREFIX, page_budget=MAX_LETTER_PAGES)
    async for page in pages:
        for chunk in kv_access.chunks([key.name for key in page.keys], KV_BULK_GET_LIMIT):
            letters |= await _read_letters(env, chunk)
            if len(letters) >= limit:
                return dict(list(letters.items())[:limit])
    return letters


async def clear_letter_records(env: Env, keys: Iterable[str]) -> None:
    """Forget failures that the database keeps, one operation each. Raises KvError; ValueError."""
    for key in keys:
        if not key.startswith(DEAD_LETTER_PREFIX):
            raise ValueError(f"not a key of a dead letter: {key!r:.80}")
        await kv_access.delete_key(env, key)


class _LatestMark(NamedTuple):
    """The last event of a letter, as keys and their metadata tell it."""

    moment: str
    is_open: bool
    key: str
    reason: str | None  # None where only the value tells
    redriven_at: str | None
    redrives: int


async def _latest_marks(env: Env) -> dict[str, _LatestMark]:
    """The last event of each letter, by id, in the order of ids. Raises KvError."""
    latest: dict[str, _LatestMark] = {}
    pages = kv_access.list_all_keys(env, DEAD_LETTER_PREFIX, page_budget=MAX_LETTER_PAGES)
    async for page in pages:
        for key in page.keys:
            letter_id, failed_at = parse_dead_letter_key(key.name)
            mark = _read_mark(key, failed_at)
            latest[letter_id] = max(latest.get(letter_id, mark), mark)
    return latest


def _read_mark(key: KvKey, failed_at: str) -> _LatestMark:
    if isinstance(key.metadata, str):
        try:
            mark = json_text.decode(key.metadata, _LetterMark)
        except json_text.UnreadableJson:
            pass  # its value decides
        else:
            redriven = mark.redriven_at
            moment = max(failed_at, redriven or "")
            is_open = redriven is None
            return _LatestMark(moment, is_open, key.name, mark.reason, redriven, mark.redrives)
    return _LatestMark(failed_at, True, key.name, None, None, 0)


async def _read_letters(env: Env, keys: Sequence[str]) -> dict[str, DeadLetter]:
    """The letters under these keys, by key. One that cannot be read is logged and left out."""
    letters = {}
    for key, value in (await kv_access.read_all_values(env, keys)).items():
        letter = kv_access.decode_record(value, DeadLetter)
        if isinstance(letter, InvalidRecord):
            env.log("dead-letter-malformed", level="error", key=key, reason=str(letter))
        elif letter is not None:
            letters[key] = letter
    return letters
