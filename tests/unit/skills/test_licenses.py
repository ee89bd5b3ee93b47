"""Under which licences content is kept."""

import pytest

from marketplace.skills.licenses import OPEN_LICENSES, is_open


@pytest.mark.parametrize(
    "license_",
    [
        "MIT",
        "mit",
        " Apache-2.0 ",
        "LicenseRef-Mine OR MIT",
        "MIT AND CC-BY-4.0",
        "Apache-2.0 WITH LLVM-exception",
        "LicenseRef-Mine AND MIT or ISC",
    ],
)
def test_what_may_be_handed_on(license_: str) -> None:
    assert is_open(license_, OPEN_LICENSES)


@pytest.mark.parametrize(
    "license_",
    [
        None,
        "",
        "LicenseRef-Mine",
        "MIT AND LicenseRef-Mine",
        "(MIT)",
        "MIT;ISC",
        "CC-BY-NC-4.0",
        "or",
    ],
)
def test_what_may_not(license_: str | None) -> None:
    assert not is_open(license_, OPEN_LICENSES)


def test_the_list_of_the_settings_alone_counts() -> None:
    assert is_open("LicenseRef-Mine", ["LicenseRef-Mine"])
    assert not is_open("MIT", ["LicenseRef-Mine"])
    assert not is_open(None, ["LicenseRef-Mine"])
