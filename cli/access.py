"""Where the marketplace is, and the credential for it, which no output may show."""

import ipaddress
from dataclasses import dataclass, field
from typing import Final

import httpx

from cli.errors import UsageProblem

DEFAULT_URL: Final = "http://127.0.0.1:8787"
REDACTED: Final = "[secret]"


@dataclass(frozen=True, slots=True)
class Access:
    """A checked base URL and at most one credential."""

    url: httpx.URL
    secret: str | None = field(default=None, repr=False)
    is_token: bool = False

    @property
    def origin(self) -> str:
        """The base URL as text, for messages."""
        return str(self.url).rstrip("/")

    def credential_headers(self) -> dict[str, str]:
        """The headers of an authenticated request. Raises UsageProblem without a credential."""
        if self.secret is None:
            raise UsageProblem(
                "no credential: set MARKETPLACE_KEY (or MARKETPLACE_TOKEN) in the environment"
            )
        if self.is_token:
            return {"Authorization": f"Bearer {self.secret}"}
        return {"X-Internal-Key": self.secret}

    def redact(self, text: str) -> str:
        """Replace the secret in a text that comes from elsewhere: a server may echo headers."""
        return text.replace(self.secret, REDACTED) if self.secret else text


def check_access(url: str, *, key: str | None, token: str | None, insecure: bool) -> Access:
    """Check the options and make an Access of them. Raises UsageProblem, never naming a secret.

    An empty key or token counts as none, as an exported but empty variable means.
    """
    base = _base_url(url)
    if key and token:
        raise UsageProblem(
            "give a key or a token, not both (see MARKETPLACE_KEY, MARKETPLACE_TOKEN)"
        )
    secret = key or token or None
    if secret is None:
        return Access(base)
    # The HTTP library's own message about such a header would quote it.
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise UsageProblem("the credential holds spaces or characters that no header can carry")
    if base.scheme == "http" and not insecure and not is_loopback(base.host):
        raise UsageProblem(
            f"refusing to send the credential unencrypted to {base.host}: "
            "use https://, or --insecure if you are sure"
        )
    return Access(base, secret, is_token=not key)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for certain: no name but ``localhost`` is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        raise UsageProblem("the URL cannot be read") from None
    if url.userinfo:  # not quoted: it may be a password
        raise UsageProblem("the URL must not hold a user name or password")
    if url.scheme not in {"http", "https"} or not url.host:
        raise UsageProblem(f"the URL must start with http:// or https://: {text!r}")
    if url.query or url.fragment:
        raise UsageProblem("the URL must be the marketplace's base address, without ? or #")
    return url
