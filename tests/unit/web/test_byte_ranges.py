"""The parts of content that a request asks for."""

import pytest

from marketplace.ports.content import Span
from marketplace.web.byte_ranges import Unsatisfiable, wanted_span

ETAG = '"e"'


@pytest.mark.parametrize(
    ("range_", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=2-", Span(2, 8)),
        ("bytes=2-99", Span(2, 8)),
        ("bytes=-3", Span(7, 3)),
        ("bytes=-99", Span(0, 10)),
    ],
)
def test_a_range_is_a_span(range_: str, span: Span) -> None:
    assert wanted_span(range_, None, ETAG, 10) == span
    assert wanted_span(range_, ETAG, ETAG, 10) == span


@pytest.mark.parametrize(
    "range_", [None, "", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b"]
)
def test_what_is_no_range_means_the_whole(range_: str | None) -> None:
    assert wanted_span(range_, None, ETAG, 10) is None


@pytest.mark.parametrize("if_range", ['"other"', 'W/"e"', "Tue, 01 Dec 2026 08:00:00 GMT"])
def test_a_range_of_another_state_means_the_whole(if_range: str) -> None:
    assert wanted_span("bytes=0-1", if_range, ETAG, 10) is None


@pytest.mark.parametrize("range_", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_without_a_byte_cannot_be_satisfied(range_: str) -> None:
    with pytest.raises(Unsatisfiable):
        wanted_span(range_, None, ETAG, 10)
