"""The acceptance log: what scanners and operators said, each under a key of its own.

An entry is written once and never changed, and holds all that it takes to do again what it did.
Its metadata tells the identity and the kind, so that a walk costs one list call for a thousand.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.basics.timestamps import EPOCH
from marketplace.kv import access as kv_access
from marketplace.kv.keys import (
    ACT_PREFIX,
    RULE_PREFIX,
    VERDICT_PREFIX,
    act_key,
    act_prefix,
    is_lift_key,
    lift_key,
    made_key_of,
    parse_verdict_key,
    rule_id_in,
    rule_key,
    rule_prefix,
    verdict_key,
    verdict_prefix,
)
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.ports.kv import KV_LIST_LIMIT, KV_METADATA_LIMIT
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.logged import Logged, that_stand
from marketplace.skills.rules import Rule, RuleLift, Target
from marketplace.skills.scan import Scan
from marketplace.skills.skill import digest_of
from marketplace.skills.tiers import Verdict

T = TypeVar("T")


class LoggedAct(msgspec.Struct, frozen=True, rename="camel"):
    """An act with the identity of its skill: the value of an ``act:`` key."""

    identity: str
    act: Act


def key_of_verdict(scan: Scan) -> str:
    """The key of a verdict's entry. Raises ValueError where it names no skill."""
    return verdict_key(scan.identity, scan.scanned_at, scan.submission_id, digest_of(scan))


async def log_verdict(env: Env, scan: Scan) -> None:
    """Keep a verdict for good. Raises KvError; ValueError where it names no skill."""
    value = msgspec.json.encode(scan)
    await _write(env, key_of_verdict(scan), value, [scan.identity, scan.verdict])


async def log_act(env: Env, identity: str, act: Act) -> None:
    """Keep an act for good. Raises KvError."""
    value = msgspec.json.encode(LoggedAct(identity, act))
    await _write(env, act_key(identity, act.at, act.id), value, [identity, act.kind])


async def log_rule(env: Env, rule: Rule) -> None:
    """Keep a rule for good; not whether it is lifted. Raises KvError."""
    entry = msgspec.structs.replace(
        rule, lifted_at=None, lifted_by=None, lift_reason=None, applied_at=None
    )
    key = rule_key(*rule.target, rule.id)
    await _write(env, key, msgspec.json.encode(entry), [rule.value, rule.kind])


async def log_lift(env: Env, rule: Rule, lift: RuleLift) -> None:
    """Keep for good that a rule is lifted. Raises KvError."""
    key = lift_key(*rule.target, rule.id, lift.at)
    await _write(env, key, msgspec.json.encode(lift), [rule.value, ActKind.RESTORE])


async def _write(env: Env, key: str, value: bytes, told: Sequence[str]) -> None:
    metadata = msgspec.json.encode(told).decode()
    fits = len(msgspec.json.encode(metadata)) <= KV_METADATA_LIMIT
    await kv_access.put_value(env, key, value, metadata=metadata if fits else None)


async def read_verdicts(env: Env, identity: str, *, newest: int | None = None) -> list[Scan]:
    """The verdicts on a skill, the oldest first: all, or so many of the newest. Raises KvError."""
    return await _read(env, verdict_prefix(identity), Scan, newest=newest)


async def read_acts(env: Env, identity: str) -> list[Act]:
    """Every act on a skill, the oldest first. Raises KvError."""
    return [logged.act for logged in await _read(env, act_prefix(identity), LoggedAct)]


async def read_logged(env: Env, identity: str, *, listed: Collection[str] = ()) -> Logged:
    """All that stands of a skill; ``listed`` as in `that_stand`. Raises KvError."""
    verdicts, acts = await asyncio.gather(read_verdicts(env, identity), read_acts(env, identity))
    return Logged(tuple(that_stand(verdicts, listed=listed)), tuple(acts))


async def read_rules(env: Env, targets: Iterable[Target]) -> list[Rule]:
    """Every rule on these targets, lifted or not. Raises KvError, also where an entry cannot be
    read: nobody knows then what it forbids."""
    prefixes = [rule_prefix(*target) for target in dict.fromkeys(targets)]

    async def list_names(prefix: str) -> list[str]:
        pages = kv_access.list_all_keys(env, prefix)
        return [key.name async for page in pages for key in page.keys]

    names = [name for part in await map_bounded(prefixes, list_names) for name in part]
    read = await read_rule_entries(env, names)
    if len(read.rules) + sum(map(len, read.lifts.values())) < len(names):
        raise KvError("the log of rules cannot be read in full", reason="damaged")
    return read.standing()


@dataclass(frozen=True, slots=True)
class RuleEntries:
    """Entries of rules: the rules as they were made, and what lifts them, both by their ids."""

    rules: Mapping[str, Rule]
    lifts: Mapping[str, Sequence[RuleLift]]

    def standing(self) -> list[Rule]:
        """The rules, each lifted by the first of its lifts."""
        return [
            rule.lifted(min(self.lifts[id_], key=lambda lift: (lift.at, lift.by)))
            if id_ in self.lifts
            else rule
            for id_, rule in sorted(self.rules.items())
        ]


async def read_rule_entries(env: Env, names: Sequence[str]) -> RuleEntries:
    """The entries of these keys; what cannot be read is logged and left out. Raises KvError."""
    rules = await _read_entries(env, [name for name in names if not is_lift_key(name)], Rule)
    lifts: dict[str, list[RuleLift]] = {}
    for lift in await _read_entries(env, [n for n in names if is_lift_key(n)], RuleLift):
        lifts.setdefault(lift.rule, []).append(lift)
    return RuleEntries({rule.id: rule for rule in rules}, lifts)


@dataclass(frozen=True, slots=True)
class RulePage:
    """Which entries a part of the log of rules has: their keys."""

    made: Sequence[str]
    lifted: Sequence[str]
    cursor: str | None  # of the next part

    @property
    def ids(self) -> set[str]:
        """Of the rules that it is about."""
        return {rule_id_in(key) for key in (*self.made, *self.lifted)}


async def list_rule_keys(env: Env, *, cursor: str | None = None, limit: int) -> RulePage:
    """One list call. Raises KvError."""
    page = await kv_access.list_page(env, RULE_PREFIX, cursor=cursor, limit=limit)
    names = [key.name for key in page.keys]
    return RulePage(
        [name for name in names if not is_lift_key(name)],
        [name for name in names if is_lift_key(name)],
        page.cursor,
    )


async def find_logged_rule(env: Env, rule_id: str) -> Rule | None:
    """A rule by its id: one list call for every thousand rules. Raises KvError."""
    async for page in kv_access.list_all_keys(env, RULE_PREFIX):
        for key in page.keys:
            if rule_id_in(key.name) == rule_id:
                name = made_key_of(key.name)
                rule = (await read_rule_entries(env, [name])).rules.get(rule_id)
                rules = [] if rule is None else await read_rules(env, [rule.target])
                return next((each for each in rules if each.id == rule_id), None)
    return None


@dataclass(frozen=True, slots=True)
class VerdictPage:
    """What a part of the log of verdicts is about, by the identities of the skills."""

    newest: Mapping[str, str]  # moments of the newest verdicts
    passed: Collection[str]  # with a PASS
    first: Mapping[str, str]  # moments of the first PASS of those that only ever passed
    last: str  # the digest of the last identity; empty where there is none
    cursor: str | None  # of the next part


async def list_verdicts(
    env: Env, *, cursor: str | None = None, limit: int = KV_LIST_LIMIT
) -> VerdictPage:
    """One list call, and one bulk get for every hundred entries without metadata. Raises
    KvError."""
    page = await kv_access.list_page(env, VERDICT_PREFIX, cursor=cursor, limit=limit)
    told: list[tuple[str, str, Verdict]] = []
    untold: list[str] = []
    for key in page.keys:
        metadata = kv_access.decode_record(_encoded(key.metadata), tuple[str, Verdict])
        if isinstance(metadata, tuple):
            told.append((metadata[0], parse_verdict_key(key.name)[1], metadata[1]))
        else:
            untold.append(key.name)
    scans = await _read_entries(env, untold, Scan)
    told += [(scan.identity, scan.scanned_at, scan.verdict) for scan in scans]
    newest: dict[str, str] = {}
    for identity, moment, _ in told:
        newest[identity] = max(moment, newest.get(identity, ""))
    passed = {identity for identity, _, verdict in told if verdict is Verdict.PASS}
    others = {identity for identity, _, verdict in told if verdict is not Verdict.PASS}
    first: dict[str, str] = {}
    for identity, moment, _ in told:
        if identity not in others and moment > EPOCH:  # that of a row that had no moment
            first[identity] = min(moment, first.get(identity, moment))
    last = parse_verdict_key(page.keys[-1].name)[0] if page.keys else ""
    return VerdictPage(newest, passed, first, last, page.cursor)


@dataclass(frozen=True, slots=True)
class ActPage:
    """Which acts a part of the log has: their ids by the identities of their skills."""

    ids: Mapping[str, set[str]]
    cursor: str | None  # of the next part


async def list_acts(env: Env, *, cursor: str | None = None, limit: int) -> ActPage:
    """One list call, and one bulk get for every hundred entries without metadata. Raises
    KvError."""
    page = await kv_access.list_page(env, ACT_PREFIX, cursor=cursor, limit=limit)
    ids: dict[str, set[str]] = {}
    untold: list[str] = []
    for key in page.keys:
        told = kv_access.decode_record(_encoded(key.metadata), tuple[str, ActKind])
        if isinstance(told, tuple):
            ids.setdefault(told[0], set()).add(key.name.rpartition(":")[2])
        else:
            untold.append(key.name)
    for logged in await _read_entries(env, untold, LoggedAct):
        ids.setdefault(logged.identity, set()).add(logged.act.id)
    return ActPage(ids, page.cursor)


def _encoded(metadata: object) -> bytes | None:
    return metadata.encode() if isinstance(metadata, str) else None


async def _read(env: Env, prefix: str, kind: type[T], *, newest: int | None = None) -> list[T]:
    names: list[str] = []
    async for page in kv_access.list_all_keys(env, prefix):
        names += [key.name for key in page.keys]
    return await _read_entries(env, names if newest is None else names[-newest:], kind)


async def _read_entries(env: Env, names: Sequence[str], kind: type[T]) -> list[T]:
    values = await kv_access.read_all_values(env, names)
    entries: list[T] = []
    for key in names:
        entry = kv_access.decode_record(values[key], kind)
        if isinstance(entry, Unreadable):
            env.log("log-entry-malformed", level="error", key=key, reason=str(entry))
        elif entry is not None:
            entries.append(entry)
    return entries
