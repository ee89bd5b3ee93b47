"""The listing from KV alone: records, index and outbox merged, for when PostgreSQL is away."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

import msgspec

from marketplace.catalog.answer import Source
from marketplace.kv import access as kv_access
from marketplace.kv.index.blocks import (
    Block,
    BlockBuilder,
    count,
    entry_of,
    iterate,
    iterate_for_matching,
    merge,
    pick,
)
from marketplace.kv.index.reading import IndexReading, read_index
from marketplace.kv.index.writing import rewrite_index
from marketplace.kv.outbox import list_outbox_summaries
from marketplace.kv.records import PublishedPage, Warnings, enumerate_published_skills, read_waiting
from marketplace.kv.withheld import read_withheld
from marketplace.ports.env import READ_BUDGET_SECONDS, Env
from marketplace.ports.errors import KvError, KvTimeout
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.kv import KV_BULK_GET_LIMIT
from marketplace.skills.seed import Seed
from marketplace.skills.skill import PublishedSummary, SkillSummary
from marketplace.skills.slugs import identity_of, known_slugs, slug_candidates
from marketplace.skills.withholding import WithheldKey

KEPT_FROM_BEFORE: Final = "kept from before"
"""The reason of a listing or an answer that was whole a while ago and stands in for a new one."""

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class PublishedSkills:
    """Every skill that KV knows, each once, in slug order: compact, immutable, plain data.

    ``source`` is the larger of the two that were merged. ``degraded`` says why the answer may
    lack skills, empty when it does not; ``truncated``: the records were not all enumerated;
    ``short``: and the index does not make up for that; ``thinned``: a part of KV failed or was too
    slow, so that the next try may bring more.
    ``withheld``: slugs, with the identities of their skills, that ``blocks`` may have and that are
    left out of what is read from it; ``count`` is an upper bound then. ``left``: slugs of the seed
    that skills have left, with those that they lead to. Iterating decodes a block at a time and may
    be repeated.
    """

    source: Source
    count: int
    blocks: tuple[Block, ...]
    degraded: tuple[str, ...] = ()
    truncated: bool = False
    thinned: bool = False
    short: bool = False
    withheld: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[PublishedSummary]:
        return (e for e in iterate(self.blocks) if not self._withholds(e.summary))

    @property
    def bytes(self) -> int:
        return sum(len(block.data) for block in self.blocks)

    def for_matching(self) -> Iterator[SkillSummary]:
        """Every skill as `decode_for_matching` reads it: for filters, sort keys and counts."""
        return (s for s in iterate_for_matching(self.blocks) if not self._withholds(s))

    def pick(self, names: Collection[str]) -> Iterator[PublishedSummary]:
        return (e for e in pick(self.blocks, names) if not self._withholds(e.summary))

    def _withholds(self, summary: SkillSummary) -> bool:
        """KV may have another skill under the slug, if PostgreSQL has lost rows."""
        identity = self.withheld.get(summary.name)
        return identity is not None and identity == identity_of(
            summary.repo_url, summary.base_slug or summary.name
        )


async def get_published_skills_list(
    env: Env,
    *,
    deadline: float = READ_BUDGET_SECONDS,
    use_index: bool = True,
) -> PublishedSkills:
    """All published skills by KV: the records enumerated, the index and the outbox, merged.

    Of two states of a slug the newer one counts. Reads all three at once; what failed or did not
    come within ``deadline`` seconds is left out and named in ``degraded``. A caller's own deadline
    would throw away what was read. Beyond ``settings.enumeration_page_budget`` batches of keys the
    index answers for the rest: the result is ``truncated``.

    Repairs the index, in the time that is left, when the enumeration was complete and found more.
    Only a full enumeration can say that there is nothing: raises KvError otherwise, KvTimeout when
    time ran out. Raises InvalidData when the index holds lines that are no summaries;
    ``use_index=False`` then leaves it out. With ``env.fallback_cache`` one request does the work
    for all that come meanwhile; a listing that lacks a part is never kept, but an older one stands
    in for it.
    """
    end = asyncio.get_running_loop().time() + deadline
    cache = env.fallback_cache
    if cache is None or not use_index:
        return await _make_list(env, end, use_index=use_index)
    shared = await _wait_for_others(cache, end)
    if shared is not None:
        return shared
    begun = cache.begin(end)
    try:
        skills = await _make_list(env, end, use_index=True)
    except KvError as error:
        older = cast("PublishedSkills | None", cache.older())
        if older is None:
            raise
        return replace(older, degraded=(f"enumeration: {error.reason}", KEPT_FROM_BEFORE))
    finally:
        cache.end()
    cache.keep(skills, begun)
    older = cast("PublishedSkills | None", cache.older())
    if skills.thinned and older is not None:
        return replace(older, degraded=(*skills.degraded, KEPT_FROM_BEFORE))
    return skills


async def _wait_for_others(cache: FallbackCache, end: float) -> PublishedSkills | None:
    loop = asyncio.get_running_loop()
    made_before = cache.made
    # Look again and again: an event would be another request's promise, which this one must not
    # await.
    while cache.is_being_made() and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)
    return cast("PublishedSkills | None", cache.made_since(made_before))


@dataclass(slots=True)
class _Enumeration:
    seed: Seed
    blocks: BlockBuilder = field(default_factory=BlockBuilder)
    moved: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    malformed: int = 0
    complete: bool = False

    def take(self, page: PublishedPage) -> None:
        self.blocks.add(map(entry_of, page.summaries))
        self.moved.update(moved.name for moved in page.moved)
        old = [(alias.name, alias.target or "") for alias in page.aliases]
        old += [(moved.name, moved.moved_to) for moved in page.moved]
        self.left.update(pair for pair in old if pair[0] in self.seed.claimable)
        self.malformed += len(page.malformed)


async def _make_list(env: Env, end: float, *, use_index: bool) -> PublishedSkills:
    enumeration, index = _Enumeration(env.seed), IndexReading()
    outbox: list[PublishedSummary] = []
    withheld: dict[str, str] = {}
    results = await asyncio.gather(
        _attempt(env, end, "enumeration", lambda: _enumerate(env, enumeration)),
        _attempt(env, end, "index", lambda: read_index(env, index)),
        _attempt(env, end, "outbox", lambda: _read_outbox(env, outbox)),
        _attempt(env, end, "withheld", lambda: _read_withheld(env, withheld)),
    )
    index_failure = results[1]
    failures = [failure for failure in results if failure is not None]
    enumerated = enumeration.blocks.blocks()
    indexed = merge(index.layers()) if use_index else []
    published = merge([enumerated, indexed], without=enumeration.moved)
    waiting = BlockBuilder()
    waiting.add(map(entry_of, _placed(outbox, published)))
    blocks = merge([published, waiting.blocks()], without=enumeration.moved)
    if not blocks and not enumeration.complete:
        raise _nothing_found(failures, index)
    larger_index = count(indexed) > count(enumerated)
    skills = PublishedSkills(
        source=Source.KV_INDEX if larger_index else Source.KV_ENUMERATION,
        count=count(blocks),
        blocks=tuple(blocks),
        degraded=_reasons(failures, enumeration, index, larger_index=larger_index),
        truncated=not enumeration.complete,
        thinned=bool(failures),
        short=not enumeration.complete and (bool(index.problems) or not larger_index),
        withheld=withheld,
        left=enumeration.left,
    )
    if enumeration.complete and index_failure is None and use_index:
        await _repair(env, end, published, index, count(indexed))
    return skills


@dataclass(frozen=True, slots=True)
class _Failure:
    """A part of KV that failed, or that was cut off when time ran out."""

    part: str
    reason: str
    is_late: bool

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


async def _attempt(
    env: Env, end: float, part: str, read: Callable[[], Awaitable[object]]
) -> _Failure | None:
    """Let a part of KV be read until the end; None, or why not all of it was."""
    try:
        async with asyncio.timeout_at(end):
            await read()
    except TimeoutError:
        failure = _Failure(part, "deadline", is_late=True)
    except KvError as error:
        failure = _Failure(part, error.reason, is_late=isinstance(error, KvTimeout))
    else:
        return None
    env.log("kv-source-failed", level="warning", source=part, reason=failure.reason)
    return failure


async def _enumerate(env: Env, found: _Enumeration) -> None:
    """All list pages first, then the records without usable metadata: large values among them
    may use up the time, and what is listed by its metadata must not wait for them."""
    waiting: list[str] = []
    listed = False
    budget = env.settings.enumeration_page_budget
    async for page in enumerate_published_skills(env, page_budget=budget, leave_waiting=True):
        found.take(page)
        waiting += page.waiting
        listed = page.cursor is None
    warnings = Warnings(env)
    for chunk in kv_access.chunks(waiting, KV_BULK_GET_LIMIT):
        page = PublishedPage(waiting=chunk)
        await read_waiting(env, page)
        warnings.add(page.malformed)
        found.take(page)
    found.complete = listed


async def _read_outbox(env: Env, into: list[PublishedSummary]) -> None:
    into += await list_outbox_summaries(env)


def _placed(
    waiting: Sequence[PublishedSummary], published: Sequence[Block]
) -> Iterator[PublishedSummary]:
    """What waits, each under the slug that its skill is published under, if it is."""
    slugs = {slug for state in waiting for slug in _wanted(state.summary.identity)}
    names = {e.summary.identity: e.summary.name for e in pick(published, slugs)}
    for state in waiting:
        name = names.get(state.summary.identity, state.summary.name)
        summary = msgspec.structs.replace(state.summary, name=name)
        yield PublishedSummary(summary, state.revision)


def _wanted(identity: str) -> Sequence[str]:
    repo_url, _, base_slug = identity.rpartition("#")
    return known_slugs(repo_url, base_slug)


async def _read_withheld(env: Env, into: dict[str, str]) -> None:
    for key in (await read_withheld(env)).values():
        into |= dict.fromkeys(_slugs(key), key.identity)


def _slugs(key: WithheldKey) -> tuple[str, ...]:
    """The slugs that KV may have a withheld skill under: the row's, and the one that is or was
    given to a skill while PostgreSQL is away."""
    repo_url, _, base_slug = key.identity.rpartition("#")
    known = known_slugs(repo_url, base_slug)
    return key.name, slug_candidates(repo_url, base_slug)[-1], known[-1]


def _nothing_found(failures: Sequence[_Failure], index: IndexReading) -> KvError:
    """Nothing was read, but the enumeration is not complete: that is not the same as no skills."""
    reasons = [str(failure) for failure in failures]
    reasons += [f"index: {index.problem}"] if index.problem else []
    error = KvTimeout if any(failure.is_late for failure in failures) else KvError
    return error(
        f"KV cannot tell which skills there are ({'; '.join(reasons) or 'not all enumerated'})"
    )


def _reasons(
    failures: Sequence[_Failure],
    enumeration: _Enumeration,
    index: IndexReading,
    *,
    larger_index: bool,
) -> tuple[str, ...]:
    """Why skills may be missing. A complete enumeration makes up for any index."""
    reasons = [str(failure) for failure in failures]
    if enumeration.malformed:
        reasons.append(f"enumeration: {enumeration.malformed} malformed records")
    if not enumeration.complete and index.problems:
        reasons.append(f"index: {index.problems[0]}")
    elif not enumeration.complete and not failures and not larger_index:
        reasons.append("index: smaller than what was enumerated, which is not all")
    return tuple(reasons)


async def _repair(
    env: Env, end: float, published: list[Block], index: IndexReading, in_index: int
) -> None:
    """Rewrite an index that lacks skills or is damaged. A failure is logged, the answer stands.

    The outbox is left out: its slugs are not decided yet.
    """
    found = count(published)
    if in_index >= found and (index.complete or not found):
        return
    try:
        async with asyncio.timeout_at(end):
            written = await rewrite_index(env, iterate(published), written_at=index.written_at)
    except TimeoutError:
        env.log("index-repair-failed", level="warning", reason="deadline")
    except KvError as error:
        env.log("index-repair-failed", level="warning", reason=error.reason)
    else:
        if written:
            problem = index.problems[0] if index.problems else "incomplete"
            env.log("index-repaired", before=in_index, after=found, problem=problem)
