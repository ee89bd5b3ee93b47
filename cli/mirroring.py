"""Following a marketplace's feed of changes into a folder, and filling a marketplace from it."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.text import Text

from cli.client import MarketplaceClient
from cli.errors import (
    EXIT_FINDING,
    EXIT_OK,
    FeedRestarted,
    NoAnswer,
    RequestRefused,
    UsageProblem,
)
from cli.mirror_folder import CONTENT, MirrorFolder, SkillFiles, State, check_item, write
from cli.output import Output
from cli.reporting import MARKDOWN, ZIP

T = TypeVar("T")

CHANGES_A_CALL: Final = 1000
RESTORED_A_CALL: Final = 100
BYTES_A_CALL: Final = 200_000  # of JSON: the marketplace takes 256 KiB
PATIENCE_SECONDS: Final = 600.0  # for a marketplace that is away, since its last answer
LONGEST_PAUSE_SECONDS: Final = 15.0
FOLLOW_SECONDS: Final = 30.0
MAX_RESTARTS: Final = 3  # of one run; a marketplace that restarts more often is not yet itself
REJECTED_SHOWN: Final = 20

_MEDIA_TYPES: Final = {"contentDigest": ZIP, "skillMdDigest": MARKDOWN}
_WHY_MISSING: Final = {
    404: "not there",
    410: "withheld or purged",
    423: "failed its latest scan",
    451: "its licence",
}


def _patiently(client: MarketplaceClient, call: Callable[[], T]) -> T:
    return client.patiently(call, seconds=PATIENCE_SECONDS, longest_pause=LONGEST_PAUSE_SECONDS)


def mirror(
    client: MarketplaceClient, output: Output, *, folder: Path, content: bool, follow: bool
) -> int:
    """Bring a folder to the marketplace's state, and go on if asked to."""
    mirrored = _Mirror(client, output, MirrorFolder(folder), content=content)
    while True:
        report = mirrored.catch_up()
        if not follow:
            output.show(report, _as_text(report))
            return EXIT_OK if report["equal"] and not report["damagedContent"] else EXIT_FINDING
        output.say(_as_text(report))
        client.surroundings.sleep(FOLLOW_SECONDS)


class _Mirror:
    """One run. Each call of `catch_up` ends with the fingerprint that the marketplace tells."""

    def __init__(
        self, client: MarketplaceClient, output: Output, folder: MirrorFolder, *, content: bool
    ) -> None:
        self._client = client
        self._output = output
        self._folder = folder
        self._content = content
        self._files = folder.whole()

    def catch_up(self) -> dict[str, Any]:
        """The report of one catching up. Raises CliError; what was mirrored by then stays."""
        restarts = 0
        applied = 0
        if self._files is None or self._files.state is None:
            self._files, applied = self._walk()
        while True:
            try:
                feed, changed = self._follow(self._files)
            except FeedRestarted:
                feed, changed = None, 0
            applied += changed
            equal = feed is not None and self._files.fingerprint() == feed["fingerprint"]
            if equal or restarts == MAX_RESTARTS:
                break
            restarts += 1
            self._files, changed = self._walk(anew=True)
            applied += changed
        fingerprint = self._files.fingerprint()
        report = {"equal": equal, "changes": applied, "restarts": restarts, **fingerprint}
        return report | self._fetch_content(self._files)

    def _walk(self, *, anew: bool = False) -> tuple[SkillFiles, int]:
        """The whole feed into files of their own, which then take the place of those before."""
        files = self._folder.begin_walk() if anew else self._folder.walk()
        applied = 0
        for _ in range(MAX_RESTARTS + 1):
            try:
                _, changed = self._follow(files)
            except FeedRestarted:
                files = self._folder.begin_walk()
            else:
                return self._folder.take_over(), applied + changed
        raise NoAnswer(f"the feed began anew {MAX_RESTARTS + 1} times")

    def _follow(self, files: SkillFiles) -> tuple[dict[str, Any], int]:
        """Apply what follows to the end; the last part of the feed, and how many changes."""
        state = files.state or State(generation="", next=0)
        applied = 0
        with self._output.progress("Mirroring") as show:
            while True:
                feed = self._ask(state)
                for item in feed["changes"]:
                    if wrong := check_item(item):
                        raise NoAnswer(f"the feed cannot be mirrored: {wrong}")
                for item in feed["changes"]:
                    files.put(item)
                applied += len(feed["changes"])
                is_last = feed["next"] >= feed["head"]
                state = State(generation=feed["generation"], next=feed["next"])
                files.save(state)
                show(feed["next"], feed["head"])
                if is_last:
                    return feed, applied

    def _ask(self, state: State) -> dict[str, Any]:
        ask = partial(self._client.changes, since=state.next, generation=state.generation)
        return _patiently(self._client, partial(ask, limit=CHANGES_A_CALL))

    def _fetch_content(self, files: SkillFiles) -> dict[str, Any]:
        """Get the content of listed skills that is not there yet."""
        fetched = damaged = 0
        missing: Counter[str] = Counter()
        if self._content:
            kept = self._folder.folder / CONTENT
            kept.mkdir(exist_ok=True)
            lacking = [each for each in _named(files.items()) if not (kept / each).exists()]
            with self._output.progress("Content") as show:
                for number, digest in enumerate(lacking):
                    show(number, len(lacking))
                    try:
                        found = _patiently(self._client, partial(self._client.content, digest))
                    except RequestRefused as refusal:
                        missing[_WHY_MISSING.get(refusal.status or 0, str(refusal))] += 1
                        continue
                    if hashlib.sha256(found).hexdigest() != digest:
                        damaged += 1
                    else:
                        write(kept / digest, found)
                        fetched += 1
        return {
            "content": fetched,
            "missingContent": missing.total(),
            "whyMissing": dict(missing),
            "damagedContent": damaged,
        }


def _named(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By digest the media type of the content that listed skills name."""
    named: dict[str, str] = {}
    for item in items:
        for member, media_type in _MEDIA_TYPES.items():
            digest = item.get(member)
            if item["status"] == "LISTED" and isinstance(digest, str) and _is_sha256(digest):
                named.setdefault(digest, media_type)
    return named


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def restore(client: MarketplaceClient, output: Output, *, folder: Path, into_existing: bool) -> int:
    """Fill an empty marketplace from a whole mirror, with the content that this has; its state
    afterwards is compared with it."""
    client.require_credential()
    files = MirrorFolder(folder).whole()
    if files is None or files.damaged or files.state is None:
        damaged = f": {', '.join(files.damaged[:5])}" if files and files.damaged else ""
        raise UsageProblem(f"{folder} has no whole mirror{damaged}")
    present = list(_everything(client))
    rows = [item for item in present if not item.get("seed")]
    if rows and not into_existing:
        raise UsageProblem(
            f"the marketplace has {len(rows)} skills, so it is not empty; with --into-existing"
            " those that it lacks are added"
        )
    seeded = {(item["identity"], item["revision"]) for item in present if item.get("seed")}
    items = [i for i in files.items() if (i["identity"], i.get("revision")) not in seeded]
    outcome = _send(client, output, items)
    if (folder / CONTENT).is_dir():
        rejected = {each.get("name") for each in outcome["rejected"] if isinstance(each, Mapping)}
        named = _named(item for item in files.items() if item["name"] not in rejected)
        outcome |= _upload(client, output, folder / CONTENT, named)
    after = client.end_of_changes()["fingerprint"]
    report = outcome | {"equal": after == files.fingerprint(), "fingerprint": after}
    output.show(report, _as_text(report))
    is_taken = not (report["rejected"] or report.get("refused") or report.get("damagedContent"))
    if is_taken and report["equal"]:
        output.say(Text("Now run: python -m cli rebuild"))
        return EXIT_OK
    return EXIT_FINDING


def _send(
    client: MarketplaceClient, output: Output, items: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    restored = present = sent = 0
    rejected: list[Any] = []
    with output.progress("Restoring") as show:
        for batch in _batches(items):
            answer = _patiently(client, partial(client.restore_skills, batch))
            restored += answer["restored"]
            present += answer["present"]
            rejected += answer["rejected"]
            sent += len(batch)
            show(sent, len(items))
    return {"restored": restored, "present": present, "rejected": rejected}


def _upload(
    client: MarketplaceClient, output: Output, kept: Path, named: Mapping[str, str]
) -> dict[str, Any]:
    """Hand over what the mirror has of the content that is ``named``, by digest with its media
    type. What the marketplace has already may come again."""
    uploaded = missing = 0
    damaged: list[str] = []
    refused: list[str] = []
    with output.progress("Uploading") as show:
        for number, (digest, media_type) in enumerate(named.items()):
            show(number, len(named))
            try:
                content = (kept / digest).read_bytes()
            except FileNotFoundError:
                missing += 1
                continue
            if hashlib.sha256(content).hexdigest() != digest:
                damaged.append(digest)
                continue
            try:
                _patiently(client, partial(client.upload, digest, content, media_type))
            except RequestRefused as refusal:
                refused.append(f"{digest}: {refusal}")
            else:
                uploaded += 1
    return {
        "uploaded": uploaded,
        "missingContent": missing,
        "damagedContent": damaged,
        "refused": refused,
    }


def _batches(items: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    size = 0
    for item in items:
        length = len(json.dumps(item, ensure_ascii=False).encode())
        if batch and (len(batch) == RESTORED_A_CALL or size + length > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def _everything(client: MarketplaceClient) -> Iterator[dict[str, Any]]:
    """What the marketplace has now."""
    since, head = 0, 1
    while since < head:
        feed = client.changes(since=since, generation="", limit=CHANGES_A_CALL)
        yield from feed["changes"]
        since, head = feed["next"], feed["head"]


def _as_text(report: Mapping[str, Any]) -> Text:
    parts = []
    for name, value in report.items():
        shown = [*map(str, value[:REJECTED_SHOWN])] or "none" if isinstance(value, list) else value
        parts.append(f"{name}: {shown}")
    return Text("\n".join(parts))
