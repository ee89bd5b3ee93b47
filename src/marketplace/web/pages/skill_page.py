"""The page of one skill, ``/skills/{slug}``, rendered here so that reading needs no script."""

from collections.abc import Iterator
from html import escape
from http import HTTPStatus
from string import Template
from typing import Final
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from marketplace.catalog import lookup
from marketplace.content.skill_content import Availability, Kept, SkillContent, content_of
from marketplace.ports.errors import StorageError
from marketplace.skills.skill import Skill, Status
from marketplace.skills.slugs import github_repository, repository_page
from marketplace.skills.withholding import Withholding, withholding_of
from marketplace.web.answers import NO_STORE, SKILLS_TAG, cacheable
from marketplace.web.content_addresses import content_url
from marketplace.web.context import CurrentEnv
from marketplace.web.problems import RETRY_AFTER_SECONDS, log_storage_failure

router = APIRouter(include_in_schema=False)

_NOT_KEPT: Final = {
    Availability.NOT_NAMED: "not kept here: no scan has told its digest",
    Availability.NOT_LICENSED: (
        "only the digest is kept: the licence does not let this marketplace hand it on"
    ),
    Availability.NOT_UPLOADED: "not kept here: nobody has uploaded it yet",
    Availability.PURGED: "removed by an operator",
    Availability.UNKNOWN: "cannot be told now",
}

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title - Skill marketplace</title>
<meta name="description" content="$summary">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header><a class="home" href="/">Skill marketplace</a></header>
<main class="skill">
$content
</main>
</body>
</html>
""")

_SKILL: Final = Template("""<h1>$title</h1>
<p class="byline">by $author · version $version · <span class="tier">$tier</span> $score/100</p>
$notices<p class="description">$description</p>
<dl>
<dt>Slug</dt><dd><code>$name</code></dd>
<dt>Category</dt><dd><a href="/?category=$category_query">$category</a></dd>
<dt>Repository</dt><dd>$repository</dd>
<dt>Path</dt><dd><code>$path</code></dd>
<dt>License</dt><dd>$license</dd>
<dt>Labels</dt><dd>$labels</dd>
<dt>Installs</dt><dd>$installs</dd>
<dt>Install</dt><dd>$commands</dd>
<dt>Commit</dt><dd>$commit</dd>
<dt>Archive</dt><dd>$archive</dd>
<dt>SKILL.md</dt><dd>$skill_md</dd>
<dt>Scanned</dt><dd>$scanned</dd>
<dt>Published</dt><dd><time datetime="$published_at">$published_on</time></dd>
<dt>Updated</dt><dd><time datetime="$updated_at">$updated_on</time></dd>
</dl>""")


@router.get("/skills/{slug}")
async def skill_page(request: Request, env: CurrentEnv, slug: str) -> Response:
    """The page of a skill; an old slug leads on to the present one for good."""
    try:
        answer = await lookup.get_skill_by_name(env, slug)
    except StorageError as error:
        log_storage_failure(request, error)
        page = _message("Not available", f"{_code(slug)} cannot be looked up now. Try again soon.")
        headers = NO_STORE | {"Retry-After": RETRY_AFTER_SECONDS}
        return HTMLResponse(page, HTTPStatus.SERVICE_UNAVAILABLE, headers=headers)
    if answer is None:
        page = _message("No such skill", f"Nothing is listed as {_code(slug)}.")
        return HTMLResponse(page, HTTPStatus.NOT_FOUND, headers=NO_STORE)
    skill = answer.value
    if skill.name != slug:
        return RedirectResponse(f"/skills/{quote(skill.name)}", HTTPStatus.PERMANENT_REDIRECT)
    withholding = withholding_of(skill)
    if withholding is not None:
        page = render_withheld(skill.name, withholding)
        return HTMLResponse(page, HTTPStatus.GONE, headers=NO_STORE)
    content = await content_of(env, skill)
    return cacheable(
        request,
        render_skill(content, str(request.base_url)).encode(),
        tags=[SKILLS_TAG, f"skill-{skill.name}"],
        degraded=answer.degraded or content.is_uncertain,
        media_type="text/html; charset=utf-8",
    )


def render_skill(kept: SkillContent, site: str = "/") -> str:
    """The whole document. Every value comes from a stranger and is escaped. ``site``: the address
    of the front page."""
    skill = kept.skill
    content = _SKILL.substitute(
        title=escape(skill.display_name),
        author=escape(skill.author),
        version=escape(skill.current_version),
        tier=escape(skill.cert_tier.capitalize()),
        score=skill.cert_score,
        description=escape(skill.description) or "No description.",
        name=escape(skill.name),
        category=escape(skill.category),
        category_query=quote(skill.category),
        repository=_link(skill.repo_url),
        path=escape(skill.skill_path) or "/",
        license=escape(skill.license or "not stated"),
        labels=escape(", ".join(skill.labels)) or "none",
        notices=_notices(skill),
        installs=f"{skill.installs:,}",
        commands="<br>".join(f"<code>{escape(each)}</code>" for each in _commands(kept, site))
        or "not handed out",
        commit=f"<code>{escape(skill.commit)}</code>" if skill.commit else "not told",
        archive=_download(skill, kept.archive, "zip"),
        skill_md=_download(skill, kept.skill_md, "text"),
        scanned=_scanned(skill),
        published_at=escape(skill.published_at),
        published_on=escape(skill.published_at[:10]),
        updated_at=escape(skill.updated_at),
        updated_on=escape(skill.updated_at[:10]),
    )
    return _PAGE.substitute(
        title=escape(skill.display_name),
        summary=escape(skill.summary().description),
        content=content,
    )


def render_withheld(name: str, withholding: Withholding) -> str:
    """The page of a skill that is not shown: why, since when and, of a threat, which."""
    blocked = withholding.status is Status.BLOCKED
    facts = [("Slug", _code(name))]
    if withholding.at is not None:
        at = escape(withholding.at)
        facts.append(("Since", f'<time datetime="{at}">{at[:10]}</time>'))
    facts.append(("Reason", escape(withholding.reason or "not stated")))
    if withholding.threat_type is not None:
        severity = f" ({withholding.severity.lower()})" if withholding.severity else ""
        facts.append(("Threat", escape(withholding.threat_type + severity)))
    rows = "\n".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in facts)
    title = "Blocked" if blocked else "Withdrawn"
    return _message(title, "This skill is not listed any more.", f"<dl>{rows}</dl>")


def _commands(kept: SkillContent, site: str) -> Iterator[str]:
    """How people's programs install the skill."""
    skill = kept.skill
    if skill.scan_failed_at is not None:
        return
    if kept.archive.is_stored:
        yield f"npx skills add {site}skills/{skill.name}"
        yield f"npx clawhub install {skill.name} --registry {site}clawhub"
    is_there = skill.commit and skill.source_gone_at is None
    if is_there and (repository := github_repository(skill.repo_url)):
        yield f"gh skill install {repository} {skill.base_slug}@{skill.commit}"


def _notices(skill: Skill) -> str:
    told = []
    if skill.scan_failed_at is not None:
        on = _day(skill.scan_failed_at)
        reason = f" {escape(skill.verdict_reason)}" if skill.verdict_reason else ""
        told.append(f"It failed its latest scan on {on} and is not handed out.{reason}")
    if skill.source_gone_at is not None:
        told.append(f"Its repository is gone, as a scan found on {_day(skill.source_gone_at)}.")
    return "".join(f'<p class="notice">{sentence}</p>\n' for sentence in told)


def _download(skill: Skill, kept: Kept, kind: str) -> str:
    """A link to what is kept, or why there is none; and the digest."""
    what = _NOT_KEPT.get(kept.availability, "")
    if kept.is_stored and skill.scan_failed_at is None:
        what = f'<a href="{escape(content_url(kept, skill.name))}">{kind}</a>'
    elif kept.is_stored:
        what = "kept, and not handed out"
    return what + (f" <code>sha256:{escape(kept.digest)}</code>" if kept.digest else "")


def _scanned(skill: Skill) -> str:
    by = f" by {escape(skill.scanned_by)}" if skill.scanned_by else ""
    return f"{_day(skill.decided_at)}{by}"


def _day(moment: str) -> str:
    return f'<time datetime="{escape(moment)}">{escape(moment[:10])}</time>'


def _link(repo_url: str) -> str:
    """A link to the repository. Records of old may hold ``git@…``, which leads to where a browser
    finds it, or anything else, which is shown and leads nowhere."""
    address = repo_url
    if urlsplit(repo_url).scheme not in ("https", "http"):
        try:
            address = repository_page(repo_url)
        except ValueError:
            return escape(repo_url)
    return f'<a href="{escape(address)}" rel="nofollow noopener">{escape(repo_url)}</a>'


def _code(slug: str) -> str:
    """What was asked for, as it can be shown: without what turns or ends a line."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in slug[:200])
    return f"<code>{escape(shown)}</code>"


def _message(title: str, text: str, facts: str = "") -> str:
    content = f'<h1>{title}</h1><p>{text}</p>{facts}<p><a href="/">Browse all skills</a></p>'
    return _PAGE.substitute(title=title, summary="", content=content)
