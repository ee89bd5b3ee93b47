"""Repositories may be submitted from known forges alone; what is stored already stays readable."""

import pytest

from marketplace.skills.forges import (
    KNOWN_FORGES,
    UnknownForge,
    repository_address,
    require_known_forge,
)
from marketplace.skills.slugs import identity_of
from marketplace.skills.stored import read_skill
from tests.unit.web.asgi import Answer, ask_json


def submit(repo_url: str, forges: tuple[str, ...] = ()) -> Answer:
    document = {"repoUrl": repo_url, "skillName": "some"}
    return ask_json("/api/v1/submissions", document, forges=forges)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("https://github.com/Acme/Tools", "https://github.com/Acme/Tools"),
        ("https://GitHub.com/Acme/Tools", "https://github.com/Acme/Tools"),
        ("https://www.github.com/Acme/Tools", "https://github.com/Acme/Tools"),
        ("https://github.com:443/Acme/Tools", "https://github.com/Acme/Tools"),
        ("  https://github.com/Acme/Tools/ ", "https://github.com/Acme/Tools"),
        ("https://github.com/Acme/Tools.git", "https://github.com/Acme/Tools"),
        ("https://github.com/Acme/Tools?tab=readme#x", "https://github.com/Acme/Tools"),
        ("https://github.com/Acme/Tools/tree/main/skills/x", "https://github.com/Acme/Tools"),
        ("https://github.com/acme_corp/.github", "https://github.com/acme_corp/.github"),
        ("https://gitlab.com/a/b/C/", "https://gitlab.com/a/b/C"),
        ("https://gitlab.com/a.b/c/-/tree/main", "https://gitlab.com/a.b/c"),
        ("https://bitbucket.org/a/b", "https://bitbucket.org/a/b"),
        ("https://codeberg.org/a.b/c_d", "https://codeberg.org/a.b/c_d"),
    ],
)
def test_a_repository_of_a_known_forge_is_kept_in_one_form(sent: str, kept: str) -> None:
    assert repository_address(sent.strip()) == kept
    require_known_forge(kept)
    assert submit(sent).status == 202


@pytest.mark.parametrize(
    ("sent", "advice"),
    [
        # Another scheme, or none.
        ("http://github.com/o/r", "must start with https://"),
        ("HTTPS://github.com/o/r", "must start with https://"),
        ("git@github.com:o/r", "must start with https://"),
        ("git@github.com:o/r.git", "must start with https://"),
        ("ssh://git@github.com/o/r", "must start with https://"),
        ("git://github.com/o/r", "must start with https://"),
        ("git+https://github.com/o/r", "must start with https://"),
        ("ftp://github.com/o/r", "must start with https://"),
        ("file:///github.com/o/r", "must start with https://"),
        ("javascript:alert(1)//github.com/o/r", "must start with https://"),
        ("//github.com/o/r", "must start with https://"),
        ("https:github.com/o/r", "must start with https://"),
        ("https:/github.com/o/r", "must start with https://"),
        ("github.com/o/r", "must start with https://"),
        ("www.github.com/o/r", "must start with https://"),
        ("o/r", "must start with https://"),
        ("", "must start with https://"),
        # Another port.
        ("https://github.com:8443/o/r", "must not name a port"),
        ("https://github.com:80/o/r", "must not name a port"),
        ("https://github.com:0443/o/r", "must not name a port"),
        ("https://github.com:/o/r", "must not name a port"),
        ("https://github.com:443:443/o/r", "must not name a port"),
        ("https://github.com:x/o/r", "must not name a port"),
        ("https://gitlab.com:444/o/r", "must not name a port"),
        # Credentials.
        ("https://user:password@github.com/o/r", "must not contain a user name or password"),
        ("https://user@github.com/o/r", "must not contain a user name or password"),
        ("https://@github.com/o/r", "must not contain a user name or password"),
        ("https://github.com@evil.example/o/r", "must not contain a user name or password"),
        ("https://github.com:443@evil.example/o/r", "must not contain a user name or password"),
        ("https://evil.example@github.com/o/r", "must not contain a user name or password"),
        # Hosts that look like a known one.
        ("https://github.com.evil.example/o/r", "must be a repository of one of these"),
        ("https://evilgithub.com/o/r", "must be a repository of one of these"),
        ("https://evil-github.com/o/r", "must be a repository of one of these"),
        ("https://github.co/o/r", "must be a repository of one of these"),
        ("https://gist.github.com/o/r", "must be a repository of one of these"),
        ("https://raw.githubusercontent.com/o/r", "must be a repository of one of these"),
        ("https://www.gitlab.com/o/r", "must be a repository of one of these"),
        ("https://www.www.github.com/o/r", "must be a repository of one of these"),
        ("https://xn--gthub-cta.com/o/r", "must be a repository of one of these"),
        ("https://evil.example/github.com/o/r", "must be a repository of one of these"),
        ("https://evil.example/o/r?https://github.com/o/r", "must be a repository of one of"),
        ("https://evil.example/o/r#@github.com/o/r", "must be a repository of one of these"),
        ("https://github.com./o/r", "has no valid host"),
        ("https://github.com../o/r", "has no valid host"),
        ("https://.github.com/o/r", "has no valid host"),
        ("https://github..com/o/r", "has no valid host"),
        ("https://g\u00efthub.com/o/r", "has no valid host"),
        ("https://g\u0456thub.com/o/r", "has no valid host"),
        ("https://bitbuc\u212aet.org/o/r", "has no valid host"),
        ("https://github\u3002com/o/r", "has no valid host"),
        ("https://\uff47ithub.com/o/r", "has no valid host"),
        ("https://github.com\u200b/o/r", "has no valid host"),
        ("https://github.com%2eevil.example/o/r", "has no valid host"),
        ("https://github%2ecom/o/r", "has no valid host"),
        ("https://github.com\\@evil.example/o/r", "character that no repository URL has"),
        ("https://github.com\\.evil.example/o/r", "character that no repository URL has"),
        ("https://evil.example\\.github.com/o/r", "character that no repository URL has"),
        ("https://github.com /o/r", "has no valid host"),
        ("https:///github.com/o/r", "has no valid host"),
        ("https://?github.com/o/r", "has no valid host"),
        ("https://", "has no valid host"),
        # Addresses within somebody's network.
        ("https://169.254.169.254/latest/meta-data", "must be a repository of one of these"),
        ("https://127.0.0.1/o/r", "must be a repository of one of these"),
        ("https://2130706433/o/r", "must be a repository of one of these"),
        ("https://0x7f000001/o/r", "must be a repository of one of these"),
        ("https://10.0.0.1/o/r", "must be a repository of one of these"),
        ("https://localhost/o/r", "must be a repository of one of these"),
        ("https://localhost:8787/o/r", "must not name a port"),
        ("https://github.internal/o/r", "must be a repository of one of these"),
        ("https://[::1]/o/r", "must not name a port"),
        ("https://[::ffff:169.254.169.254]/o/r", "must not name a port"),
        # Owners and repositories.
        ("https://github.com", "does not name an owner and a repository"),
        ("https://github.com/", "does not name an owner and a repository"),
        ("https://github.com/o", "does not name an owner and a repository"),
        ("https://github.com/o/", "does not name an owner and a repository"),
        ("https://github.com?o/r", "does not name an owner and a repository"),
        ("https://github.com#/o/r", "does not name an owner and a repository"),
        ("https://github.com/o/.git", "invalid owner or repository name"),
        ("https://github.com/o/..", "invalid owner or repository name"),
        ("https://github.com/../r", "invalid owner or repository name"),
        ("https://github.com/./r", "invalid owner or repository name"),
        ("https://github.com/o/r%00", "invalid owner or repository name"),
        ("https://github.com/o%2Fp/r", "invalid owner or repository name"),
        ("https://github.com/%6f/r", "invalid owner or repository name"),
        ("https://github.com/o/r;x", "invalid owner or repository name"),
        ("https://github.com/o/r$(x)", "invalid owner or repository name"),
        ("https://github.com/o:x@y/r", "invalid owner or repository name"),
        ("https://github.com/\u00f6/r", "character that no repository URL has"),
        ("https://github.com/o/r\u0456", "character that no repository URL has"),
        ("https://github.com/o r/x", "character that no repository URL has"),
        ("https://github.com/o/~r", "character that repositories do not have"),
        ("https://github.com/~o/r", "character that owners do not have"),
        ("https://github.com/-o/r", "character that owners do not have"),
        ("https://codeberg.org/.o/r", "character that owners do not have"),
        ("https://gitlab.com/a/~b/r", "character that owners do not have"),
        ("https://github.com/o.p/r", "has no dot"),
        ("https://bitbucket.org/o.p/r", "has no dot"),
        ("https://bitbucket.org/o/r/src/main", "https://bitbucket.org/o/r"),
        ("https://codeberg.org/o/r/src/branch/main/x", "https://codeberg.org/o/r"),
        (f"https://github.com/{'o' * 40}/r", "at most 39 characters"),
        (f"https://github.com/o/{'r' * 101}", "at most 100 characters"),
    ],
)
def test_anything_else_is_refused_with_advice(sent: str, advice: str) -> None:
    answer = submit(sent)
    assert answer.status == 422
    [error] = answer.problem()["errors"]
    assert error["field"] == "repoUrl"
    assert advice in error["message"]
    assert answer.log == []


def test_the_operator_adds_forges() -> None:
    added = ("git.example.org", "code.example.com")
    assert submit("https://git.example.org/a/b/c").status == 422
    assert submit("https://Git.example.org/a/b/c", forges=added).status == 202
    assert submit("https://code.example.com/a/b", forges=added).status == 202
    assert submit("https://github.com/a/b", forges=added).status == 202
    refused = submit("https://x.git.example.org/a/b", forges=added)
    [error] = refused.problem()["errors"]
    for forge in (*KNOWN_FORGES, *added):
        assert forge in error["message"]


def test_no_setting_opens_another_port_or_scheme() -> None:
    odd = ("github.com:8443", "http://github.com", "*", "")
    for sent in (
        "https://github.com:8443/o/r",
        "http://github.com/o/r",
        "https://evil.example/o/r",
    ):
        assert submit(sent, forges=odd).status == 422


@pytest.mark.parametrize(
    "address",
    [
        "https://git.unknown.example:8443/a/b",
        "http://github.com/a/b",
        "git@github.com:a/b",
        "github.com/a/b",
        "https://169.254.169.254/a/b",
    ],
)
def test_what_is_stored_already_stays_readable(address: str) -> None:
    skill = read_skill({"name": "some", "repoUrl": address})
    assert skill.repo_url == address
    assert skill.identity == identity_of(address, "some")


def test_a_forge_is_compared_whole() -> None:
    with pytest.raises(UnknownForge):
        require_known_forge("https://evil.example/github.com/o/r")
    with pytest.raises(UnknownForge):
        require_known_forge("https://hub.com/o/r")
