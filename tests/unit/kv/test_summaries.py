"""The metadata of records: it fits, comes back the same, and is never believed blindly."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.kv.summaries import Moved, decode_metadata, encode_metadata, encode_summary
from marketplace.ports.kv import KV_METADATA_LIMIT
from marketplace.skills.skill import PublishedSummary
from tests.doubles.marketplace import make_skill

# Text that every store can hold: everything but lone surrogates and NUL
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=120)


@given(
    description=text,
    display_name=text,
    labels=st.lists(text, max_size=4).map(tuple),
    score=st.integers(0, 100),
    trend=st.floats(allow_nan=False, allow_infinity=False),
    base_slug=st.sampled_from(["pdf-tools", "tools"]),
)
def test_metadata_fits_and_comes_back_the_same_or_is_left_out(
    description: str,
    display_name: str,
    labels: tuple[str, ...],
    score: int,
    trend: float,
    base_slug: str,
) -> None:
    skill = make_skill(
        description=description,
        display_name=display_name,
        labels=labels,
        cert_score=score,
        trending_score_7d=trend,
        base_slug=base_slug,
    )
    metadata = encode_metadata(skill)
    if metadata is None:
        size = len(json.dumps(description + display_name + "".join(labels), ensure_ascii=False))
        assert size > 200
    else:
        assert len(json.dumps(metadata, ensure_ascii=False).encode()) <= KV_METADATA_LIMIT
        assert decode_metadata("pdf-tools", metadata) == skill.published_summary()


def test_a_text_that_only_looks_like_nul_is_a_text() -> None:
    skill = make_skill(description="Escapes \\u0000 and \\\\u0000.")
    metadata = encode_metadata(skill)
    assert decode_metadata("pdf-tools", metadata) == skill.published_summary()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("description", "nul \0"), ("labels", ("a", "\0"))),
        *(("cert_score", 101), ("cert_score", -1), ("cert_score", 2**60)),
        *(("updated_at", "yesterday"), ("published_at", ""), ("certified_at", "2026-01-01")),
    ],
)
def test_metadata_that_no_skill_can_have_is_not_believed(field: str, value: Any) -> None:
    summary = msgspec.structs.replace(make_skill().summary(), **{field: value})
    metadata = encode_summary(PublishedSummary(summary, make_skill().revision)).decode()
    assert decode_metadata("pdf-tools", metadata) is None


def test_an_ordinary_skill_with_the_longest_description_fits() -> None:
    skill = make_skill(description="A sentence. " * 90, license="Apache-2.0")
    assert encode_metadata(skill) is not None


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"name": "pdf-tools"},
        [],
        7,
        True,
        "",
        "[]",
        "null",
        '["s9"]',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_unusable_metadata_is_none(metadata: object) -> None:
    assert decode_metadata("pdf-tools", metadata) is None


@given(st.data())
def test_damaged_metadata_never_raises_nor_breaks_the_identity(data: st.DataObject) -> None:
    metadata = encode_metadata(make_skill())
    assert metadata is not None
    at = data.draw(st.integers(0, len(metadata) - 1))
    damaged = metadata[:at] + data.draw(st.text(max_size=2)) + metadata[at + 1 :]
    match decode_metadata("pdf-tools", damaged):
        case None | Moved():
            pass
        case published:
            assert published.summary.name == "pdf-tools"
            assert published.summary.identity


def test_metadata_of_another_slug_is_not_believed() -> None:
    assert decode_metadata("other", encode_metadata(make_skill())) is None
