"""Where content is served: for pages, and for what installers are told."""

from urllib.parse import quote, urlencode

from marketplace.content.skill_content import Kept


def content_url(kept: Kept, slug: str) -> str:
    """The address of stored content, from the root of this site. It names the skill, which tells
    whether the content may be served while PostgreSQL is away."""
    return f"/content/{kept.digest}?{urlencode({'skill': slug}, quote_via=quote)}"
