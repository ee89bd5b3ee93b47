"""Works off what the marketplace wants scanned, for repositories that lie on this machine."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Final

import httpx
import msgspec

from cli.answers import read
from cli.client import MarketplaceClient
from cli.errors import NoAnswer, UsageProblem
from cli.reporting import Outcome, Reported, Reporter, Repository, absence
from scanner.git import cloned, is_repository
from scanner.skills import ScannedSkill, Verdict, scan
from scanner.sources import Source, open_source
from scanner.tree import Refused, Unreadable

IDLE_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 1.0  # after a failure; doubled with every further one
LONGEST_PAUSE_SECONDS: Final = 300.0
LONGEST_ASKED_SECONDS: Final = 3600.0  # that the marketplace may ask to wait
MAX_FAILURES: Final = 20  # in a row; about an hour
KEPT_RESULTS: Final = 200
GONE_TIMEOUT_SECONDS: Final = 20.0
_GONE: Final = frozenset({404, 410})
_DUE: Final = "due"
_NEW: Final = "new"


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A request for a scan."""

    submission_id: str
    repo_url: str
    reason: str
    skill_name: str = ""
    skill_path: str = ""


class Gone(Exception):
    """There is no such repository: definitely, and not because of a failure."""


def _answers_gone(url: str) -> bool:
    """Whether a forge says that it has no such repository, and not merely that it may not tell."""
    try:
        answer = httpx.get(url, timeout=GONE_TIMEOUT_SECONDS, follow_redirects=False)
    except httpx.HTTPError:
        return False
    return answer.status_code in _GONE


@dataclass(frozen=True, slots=True)
class Sources:
    """Where repositories are found: in folders, by their address, or by cloning them."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    clone: bool = False
    open_clone: Callable[[str], AbstractContextManager[Path]] = cloned
    is_gone: Callable[[str], bool] = _answers_gone

    @contextmanager
    def opened(self, url: str) -> Iterator[Source]:
        """A repository at its head. Raises Gone, Refused, Unreadable."""
        folder = self.folders.get(_key(url))
        if folder is not None:
            # A disk that is not there takes the folder's parent with it.
            if not folder.exists() and folder.parent.is_dir():
                raise Gone(f"there is no {folder} any more")
            if not is_repository(folder):
                raise Unreadable(f"{folder} is no git repository")
            yield open_source(folder)
        elif self.clone:
            with self._clone(url) as path:
                yield open_source(path)
        else:
            raise Unreadable("no --map names a folder for it, and --clone was not given")

    @contextmanager
    def _clone(self, url: str) -> Iterator[Path]:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self.open_clone(url))
            except Unreadable:
                if self.is_gone(url):
                    raise Gone("its forge says that there is no such repository") from None
                raise
            yield path


def read_map(pairs: Sequence[str]) -> dict[str, Path]:
    """Folders by repository, of ``URL=FOLDER``. Raises UsageProblem."""
    folders = {}
    for pair in pairs:
        url, separator, folder = pair.partition("=")
        if not separator or not url.startswith("https://") or not folder:
            raise UsageProblem(f"--map takes https://host/owner/repository=FOLDER, not {pair!r}")
        folders[_key(url)] = Path(folder.removeprefix("file://"))
    return folders


class Follower:
    """Takes requests and answers them until it is interrupted; what became of the last ones."""

    def __init__(
        self, client: MarketplaceClient, sources: Sources, tell: Callable[[Reported], None]
    ) -> None:
        self._client: Final = client
        self._sources: Final = sources
        self._tell: Final = tell
        self._reporter: Final = Reporter(client, self._keep)
        self._failures = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.results: deque[Reported] = deque(maxlen=KEPT_RESULTS)

    @property
    def no_content(self) -> str | None:
        """Why this marketplace takes no content, if it does not."""
        return self._reporter.no_content

    def follow(self, *, limit: int, once: bool) -> None:
        """Take up to ``limit`` requests a time; ``once``: until nothing waits. Raises CliError: of
        failures that pass, after MAX_FAILURES in a row."""
        while True:
            try:
                taken = self._client.scan_requests(limit)
                self._answer([read(item, Request) for item in taken])
            except NoAnswer as error:
                self._reporter.drop(error)
                self._failures += 1
                if self._failures == MAX_FAILURES:
                    raise
                self._client.surroundings.sleep(self._pause(error))
                continue
            self._failures = 0
            if not taken and once:
                return
            if not taken:
                self._client.surroundings.sleep(IDLE_SECONDS)

    def _pause(self, error: NoAnswer) -> float:
        growing: float = FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1)
        asked = min(error.retry_after, LONGEST_ASKED_SECONDS)
        return max(min(growing, LONGEST_PAUSE_SECONDS), asked)

    def _answer(self, requests: Sequence[Request]) -> None:
        """Read each repository once, however many of its skills are wanted."""
        ordered = sorted(requests, key=lambda request: _key(request.repo_url))
        for _, group in groupby(ordered, key=lambda request: _key(request.repo_url)):
            self._answer_for(list(group))
        self._reporter.send()

    def _answer_for(self, requests: Sequence[Request]) -> None:
        at = self._client.surroundings.now()
        url = requests[0].repo_url
        try:
            with self._sources.opened(url) as source:
                skills = scan(source.tree)
                for request in requests:
                    self._answer_one(request, source, skills, at)
        except Gone as gone:
            for request in requests:
                told = _told(request, Verdict.GONE, str(gone))
                self._reporter.add(told, absence(told, Verdict.GONE, at))
        except (Refused, Unreadable) as error:
            for request in requests:
                self._keep(_told(request, None, str(error)))

    def _answer_one(
        self, request: Request, source: Source, skills: Sequence[ScannedSkill], at: datetime
    ) -> None:
        found = choose(request, skills)
        if found is not None:
            told = _told(request, found.verdict, None, path=found.path)
            self._reporter.report(told, Repository(request.repo_url), source, found, at)
            return
        if request.reason == _NEW:
            verdict, reason = Verdict.FAIL, _no_such_skill(request, skills)
        else:
            verdict, reason = Verdict.WITHDRAWN, "its folder is not in the repository any more"
        told = _told(request, verdict, reason)
        path = {} if request.reason == _NEW else {"path": request.skill_path}
        self._reporter.add(told, absence(told, verdict, at, commit=source.commit, **path))

    def _keep(self, told: Reported) -> None:
        self.outcomes[told.outcome] += 1
        self.results.append(told)
        self._tell(told)


def choose(request: Request, skills: Sequence[ScannedSkill]) -> ScannedSkill | None:
    """The skill that a request means, or None.

    The path of one that is due is where it is listed: only there it counts. Any other path is a
    hint of whoever asked. Without a hint, the only skill of a repository is meant.
    """
    named = [skill for skill in skills if _slug(_name(skill)) == _slug(request.skill_name)]
    there = [skill for skill in skills if skill.path == request.skill_path]
    both = [skill for skill in named if skill in there]
    if both or request.reason == _DUE:
        return next(iter(both), None)
    if named:
        return named[0]
    if request.reason == _NEW and request.skill_path and there:
        return there[0]
    is_only = request.reason == _NEW and not request.skill_path and len(skills) == 1
    return skills[0] if is_only else None


def _no_such_skill(request: Request, skills: Sequence[ScannedSkill]) -> str:
    names = ", ".join(sorted(_name(skill) for skill in skills)[:5])
    reason = f"the repository has no skill {request.skill_name!r}"
    return f"{reason}, but {names}"[:400] if names else reason


def _told(
    request: Request, verdict: Verdict | None, reason: str | None, *, path: str | None = None
) -> Reported:
    return Reported(
        path=request.skill_path if path is None else path,
        name=request.skill_name,
        outcome=Outcome.LEFT,
        verdict=verdict,
        submission_id=request.submission_id,
        reason=reason,
    )


def _name(skill: ScannedSkill) -> str:
    """What it is called; of one that says no valid name, its folder."""
    return skill.name or skill.path.rpartition("/")[2]


def _slug(name: str) -> str:
    """As the marketplace makes names equal."""
    letters = (c if c.isascii() and c.isalnum() else " " for c in name.lower())
    return "-".join("".join(letters).split())


def _key(url: str) -> str:
    return url.rstrip("/").removesuffix(".git").casefold()
