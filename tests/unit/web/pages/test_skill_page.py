"""The skill page shows what strangers wrote, so everything in it is escaped."""

from marketplace.skills.skill import Skill
from marketplace.web.pages.skill_page import render_skill


def make_skill(**changes: str) -> Skill:
    values = {
        "name": "a-skill",
        "base_slug": "a-skill",
        "display_name": "A skill",
        "description": "Does a thing.",
        "author": "acme",
        "repo_url": "https://github.com/acme/tools",
    }
    return Skill(**(values | changes))  # type: ignore[arg-type]


def test_markup_in_a_description_is_shown_and_not_run() -> None:
    page = render_skill(make_skill(description="<script>alert(1)</script>"))

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_markup_in_names_is_escaped_in_title_and_heading() -> None:
    page = render_skill(make_skill(display_name='"><img src=x>'))

    assert "<img" not in page
    assert page.count("&lt;img src=x&gt;") == 2


def test_only_web_addresses_become_links() -> None:
    page = render_skill(make_skill(repo_url="javascript:alert(1)"))

    assert "<dd>javascript:alert(1)</dd>" in page
    assert "javascript:" not in page.replace("<dd>javascript:alert(1)</dd>", "")


def test_an_address_for_git_alone_leads_to_where_a_browser_finds_it() -> None:
    page = render_skill(make_skill(repo_url="git@github.com:Acme/Tools.git"))

    link = '<a href="https://github.com/Acme/Tools" rel="nofollow noopener">'
    assert f"{link}git@github.com:Acme/Tools.git</a>" in page


def test_the_page_names_version_author_and_repository() -> None:
    page = render_skill(make_skill())

    assert "by acme · version 1.0.0" in page
    assert 'href="https://github.com/acme/tools"' in page
