"""Skills to test with."""

import random
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from marketplace.ports.database import RecordKey, SkillDatabase, UpsertResult
from marketplace.skills.acts import Act, ActKind, Severity
from marketplace.skills.change import Change, State
from marketplace.skills.merging import as_listed
from marketplace.skills.scan import Refusal
from marketplace.skills.seed import Claim, Seed, read_seed
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates, slugify
from marketplace.skills.tiers import CertMethod, CertTier, Verdict

JANUARY: Final = "2026-01-01T00:00:00.000Z"
FEBRUARY: Final = "2026-02-01T00:00:00.000Z"
MARCH: Final = "2026-03-01T00:00:00.000Z"
APRIL: Final = "2026-04-01T00:00:00.000Z"

# Few of each, so that sort keys and prefixes meet; with what Unicode has to confuse two sorters.
_WORDS: Final = (
    *("pdf", "pdfs", "Pdf-Tools", "tool", "tools", "toolbox", "code", "Codé", "coding", "Zebra"),
    *("ärger", "Ärger", "éclair", "e\u0301clair", "ﬁle", "Straße", "İstanbul", "日本語", "日本"),
    *("🦊", "\U0001d4b3", "\uffee", "it's", "back\\slash", "a&b", "x:*", "!no", "İ", "ΣΑΣ", "20%"),
)
_OWNERS: Final = ("acme", "Acme", "ACME-labs", "Ünal", "ünal", "ÜNAL", "zed")
_CATEGORIES: Final = ("development", "writing", "data")


def skill(base_slug: str = "pdf-tools", *, repository: str = "acme/tools", **fields: Any) -> Skill:
    """A skill of a repository on GitHub; under its base slug, unless ``name`` says otherwise."""
    values = {
        "name": base_slug,
        "display_name": base_slug,
        "description": f"Does {base_slug}.",
        "author": repository.split("/")[0],
        "published_at": JANUARY,
        "updated_at": JANUARY,
    }
    return Skill(
        base_slug=base_slug, repo_url=f"https://github.com/{repository}", **(values | fields)
    )


def key_of(record: Skill) -> RecordKey:
    """What KV tells about this skill."""
    return RecordKey(record.name, record.identity, record.revision)


def act(kind: ActKind, at: str = FEBRUARY, **fields: Any) -> Act:
    """What an operator did; its id tells the kind and the moment, unless ``id`` is given."""
    values = {"id": f"{kind}-{at}", "reason": "because", "by": "ops"}
    return Act(kind=kind, at=at, **(values | fields))


def with_acts(record: Skill, *acts: Act) -> Skill:
    """The skill with these acts alone, as they let it be listed."""
    return as_listed(msgspec.structs.replace(record, acts=acts))


async def publish(db: SkillDatabase, record: Skill) -> UpsertResult:
    """Upsert under the candidates that the slug rule gives."""
    candidates = assignable_candidates(record.repo_url, record.base_slug)
    return await change(db, State(record), *candidates)


async def change(
    db: SkillDatabase, asked: Change, *candidates: str, row: Skill | None = None
) -> UpsertResult:
    """Upsert with a change that is not refused."""
    result = await db.upsert_skill(asked, candidates=candidates, row=row)
    assert not isinstance(result, Refusal)
    return result


def seed_of(*skills: Skill) -> Seed:
    """A seed of these skills."""
    return read_seed(msgspec.json.encode(skills))


def claims_on(seed: Seed, published: Iterable[Skill]) -> list[Claim]:
    """What the seed gives way to, in the order of the slugs."""
    return sorted(
        Claim(each.name, each.identity)
        for each in published
        if each.identity in seed.by_identity or each.name in seed.claimable
    )


def random_skills(chance: random.Random, count: int) -> list[Skill]:
    """Skills of distinct slugs that resemble each other in all that listings look at."""
    return [_random_skill(chance, number) for number in range(count)]


def _random_skill(chance: random.Random, number: int) -> Skill:
    title = " ".join(chance.choices(_WORDS, k=chance.randint(1, 3)))
    base_slug = slugify(f"{title} {number}")
    owner = chance.choice(_OWNERS)
    moment = f"2026-0{chance.randint(1, 3)}-01T00:00:00.00{chance.randint(0, 1)}Z"
    drawn = Skill(
        name=base_slug if chance.random() < 0.8 else slugify(f"{owner}-{base_slug}"),
        base_slug=base_slug,
        display_name=title,
        description=" ".join(chance.choices(_WORDS, k=chance.randint(0, 120))),
        author=owner,
        repo_url=f"https://github.com/owner-{number % 7}/repo-{number}",
        skill_path=chance.choice(("", "skills/x")),
        license=chance.choice((None, "MIT")),
        category=chance.choice(_CATEGORIES),
        current_version=chance.choice(("1.0.0", "2.0.0-rc.1", "not a version", "ü")),
        cert_tier=chance.choice(list(CertTier)),
        cert_method=chance.choice(list(CertMethod)),
        cert_score=chance.choice((0, 50, 50, 100)),
        certified_at=chance.choice((None, moment)),
        labels=tuple(chance.sample(_WORDS, k=chance.randint(0, 3))),
        extensible=chance.random() < 0.3,
        extension_points=tuple(chance.sample(_WORDS, k=chance.randint(0, 2))),
        trending_score_7d=chance.choice((0.0, 0.1, 1e-9, 12.75, 1e22)),
        trending_score_30d=chance.choice((0.0, 1.0, -3.5)),
        installs=chance.choice((0, 1, 12, 2**31 - 1)),
        published_at=moment,
        updated_at=chance.choice((moment, "2026-04-01T12:00:00.500Z")),
        provisional=chance.random() < 0.1,
        commit=chance.choice((None, "c0ffee")),
        ref=chance.choice((None, "refs/heads/ünal")),
        repository_id=chance.choice((None, "4711")),
        owner_id=chance.choice((None, "7")),
        content_digest=chance.choice((None, "d1" * 32)),
        skill_md_digest=chance.choice((None, "d2" * 32)),
        read_at=chance.choice((None, moment)),
        verdict=chance.choice((*[Verdict.PASS] * 8, *Verdict)),
        verdict_at=chance.choice((None, moment)),
        verdict_reason=chance.choice((None, "reads \\ secrets 🦊")),
    )
    return with_acts(drawn, *_random_acts(chance))


def _random_acts(chance: random.Random) -> tuple[Act, ...]:
    if chance.random() < 0.7:
        return ()
    possible = (
        act(ActKind.CORRECT, JANUARY, category="data", labels=("x", "日本"), reason="wröng 🦊"),
        act(ActKind.CORRECT, FEBRUARY, cert_tier=CertTier.CERTIFIED, rule="rule-1"),
        act(ActKind.WITHDRAW, FEBRUARY),
        act(
            ActKind.BLOCK,
            FEBRUARY,
            threat_type="malware",
            severity=Severity.CRITICAL,
            evidence_urls=('https://threat.example/a?b="c"', "https://threat.example/d"),
        ),
        act(ActKind.ACCEPT_OWNER, FEBRUARY, repository_id="4711", owner_id="7"),
        act(
            ActKind.RESTORE,
            MARCH,
            lifts=(f"{ActKind.WITHDRAW}-{FEBRUARY}", f"{ActKind.BLOCK}-{FEBRUARY}"),
        ),
    )
    chosen = [each for each in possible if chance.random() < 0.4]
    return tuple(sorted(chosen, key=lambda each: (each.at, each.id)))
