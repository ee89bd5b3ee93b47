"""The names of everything that the marketplace keeps in KV, in one place."""

from typing import Final

from marketplace.basics.timestamps import EPOCH, normalize_timestamp
from marketplace.skills.slugs import KEY_DIGEST_LENGTH, key_digest

SKILL_PREFIX: Final = "skill:"
ALIAS_PREFIX: Final = "skill:alias:"
INDEX_KEY: Final = "skills:published-index"
INDEX_PAGE_PREFIX: Final = f"{INDEX_KEY}:"
WITHHELD_KEY: Final = "skills:withheld"
ACKNOWLEDGED_KEY: Final = "database:acknowledged"
OUTBOX_PREFIX: Final = "outbox:"
PENDING_PREFIX: Final = "pending:"
UNQUEUED_PREFIX: Final = "unqueued:"
DEAD_LETTER_PREFIX: Final = "dead-letter:"
VERDICT_PREFIX: Final = "verdict:"
ACT_PREFIX: Final = "act:"
RULE_PREFIX: Final = "rule:"
_LIFTED: Final = ":lifted:"


def skill_key(slug: str) -> str:
    return f"{SKILL_PREFIX}{slug}"


def alias_key(old_slug: str) -> str:
    """Where a slug that is no longer in use leads to."""
    return f"{ALIAS_PREFIX}{old_slug}"


def index_page_key(generation: str, attempt: int, number: int) -> str:
    """One page of the index; not under ``skill:``, so that enumerations never meet it."""
    return f"{INDEX_PAGE_PREFIX}{generation}:{attempt}:{number}"


def submission_key(submission_id: str) -> str:
    return f"sub:{submission_id}"


def scan_key(submission_id: str) -> str:
    return f"scan:{submission_id}"


def publication_key(submission_id: str) -> str:
    return f"published:{submission_id}"


def pending_key(scanned_at: str, submission_id: str) -> str:
    """Marks a submission that passed its scan and is not known to be published; sorts by age."""
    return f"{PENDING_PREFIX}{scanned_at}:{submission_id}"


def unqueued_key(created_at: str, submission_id: str) -> str:
    """Marks a submission that the scanners' work list lacks; sorts by age."""
    return f"{UNQUEUED_PREFIX}{created_at}:{submission_id}"


def parse_mark(prefix: str, key: str) -> tuple[str, str]:
    """The time and the submission id in the key of a mark. Raises ValueError for any other key."""
    rest = key.removeprefix(prefix)
    width = len(EPOCH)  # timestamps have one width, and colons of their own
    moment, submission_id = rest[:width], rest[width + 1 :]
    if normalize_timestamp(moment) != moment or rest[width : width + 1] != ":":
        raise ValueError(f"no moment and id in {key!r:.200}")
    return moment, submission_id


def identity_key(identity: str) -> str:
    """The latest submission of an identity."""
    return f"identity:{key_digest(identity)}"


def outbox_prefix(identity: str) -> str:
    return f"{OUTBOX_PREFIX}{key_digest(identity)}:"


def outbox_key(identity: str, revision: str) -> str:
    """A skill that waits for its place in the database; repeats fall on the same key."""
    return f"{outbox_prefix(identity)}{key_digest(revision)}"


def verdict_prefix(identity: str) -> str:
    """What the keys of all verdicts on one skill begin with."""
    return f"{VERDICT_PREFIX}{key_digest(identity)}:"


def verdict_key(identity: str, moment: str, submission_id: str, digest: str) -> str:
    """A verdict in the acceptance log; the keys of one skill sort by moment.

    One submission may have two verdicts of one moment, of which the digests differ.
    """
    return f"{verdict_prefix(identity)}{moment}:{submission_id}:{digest}"


def parse_verdict_key(key: str) -> tuple[str, str]:
    """The digest of the identity and the moment in a `verdict_key`."""
    digest, _, rest = key.removeprefix(VERDICT_PREFIX).partition(":")
    return digest, rest[: len(EPOCH)]


def act_prefix(identity: str) -> str:
    """What the keys of all acts on one skill begin with."""
    return f"{ACT_PREFIX}{key_digest(identity)}:"


def act_key(identity: str, moment: str, act_id: str) -> str:
    """An operator's act in the acceptance log."""
    return f"{act_prefix(identity)}{moment}:{act_id}"


def rule_prefix(matches: str, value: str) -> str:
    """What the keys of all rules on one target begin with, and those that say they are lifted."""
    return f"{RULE_PREFIX}{key_digest(f'{matches} {value}')}:"


def rule_key(matches: str, value: str, rule_id: str) -> str:
    """An operator's rule in the acceptance log."""
    return f"{rule_prefix(matches, value)}{rule_id}"


def lift_key(matches: str, value: str, rule_id: str, moment: str) -> str:
    """That a rule is lifted."""
    return f"{rule_key(matches, value, rule_id)}{_LIFTED}{moment}"


def is_lift_key(key: str) -> bool:
    return _LIFTED in key


def made_key_of(key: str) -> str:
    """The `rule_key` of a rule that such a key or a `lift_key` is about."""
    return key.partition(_LIFTED)[0]


def rule_id_in(key: str) -> str:
    """The id of the rule that a `rule_key` or `lift_key` is about."""
    return made_key_of(key)[len(RULE_PREFIX) + KEY_DIGEST_LENGTH + 1 :]


def files_key(digest: str) -> str:
    """The list of files of this digest."""
    return f"files:{digest}"


def state_key(name: str) -> str:
    return f"state:{name}"
