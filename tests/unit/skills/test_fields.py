"""Everything that knows a skill's fields has them from the model, and what is stored stays."""

import json
from collections.abc import Callable

import msgspec
import pytest

from marketplace.basics.json_text import InvalidData
from marketplace.kv.summaries import decode_for_matching, decode_summary, encode_summary
from marketplace.postgres.queries import SKILL_COLUMNS
from marketplace.skills.skill import INTERNAL, Skill, SkillSummary
from marketplace.web.api.documents import SkillDocument, SummaryDocument
from tests.doubles.marketplace import make_skill

SKILL = make_skill("pdf-tools", license="MIT", extension_points=("ocr",))
REVISION = "1a1961f5c00|000|1a1961f5c00|00000000000|1a1961f5c00|072f3e0a1c41e6e7"
COMPACT = (
    f'["s1","{REVISION}","pdf-tools","","Pdf-Tools","What pdf-tools does.","octo",'
    '"https://github.com/octo/pdf-tools","","MIT","development","1.0.0","SCANNED",'
    '"AUTOMATED_SCAN",0,null,[],false,0.0,0.0,'
    '"1970-01-01T00:00:00.000Z","2026-11-01T08:00:00.000Z"]'
)


def test_documents_and_columns_have_the_fields_of_the_model() -> None:
    summary, whole = SkillSummary.__struct_fields__, Skill.__struct_fields__
    assert tuple(SummaryDocument.model_fields) == summary
    shown = {*whole} - {*INTERNAL}
    for_installers = {"sha", "provenance_verified", "trust_tier", "trust_score"}
    answered = {"source", "degraded", "reasons"}
    assert set(SkillDocument.model_fields) == shown | for_installers | answered
    assert tuple(SKILL_COLUMNS)[: len(whole)] == whole


def test_the_revision_of_a_stored_skill_is_the_same_for_ever() -> None:
    assert SKILL.revision == REVISION


def test_the_compact_summary_has_the_fields_that_it_always_had_in_their_order() -> None:
    published = SKILL.published_summary()
    assert encode_summary(published).decode().startswith(COMPACT[:-1])
    assert decode_summary(COMPACT) == published


@pytest.mark.parametrize("read", [decode_summary, decode_for_matching])
def test_a_summary_with_a_field_that_was_added_since_is_read(
    read: Callable[[bytes], object],
) -> None:
    present = encode_summary(SKILL.published_summary())
    longer = json.dumps([*json.loads(present), "a field of tomorrow"]).encode()
    assert read(longer) == read(present) == read(COMPACT.encode())


def test_a_summary_that_lacks_a_field_that_it_always_had_is_damaged() -> None:
    shorter = json.dumps(json.loads(COMPACT)[:-1])
    with pytest.raises(InvalidData):
        decode_summary(shorter)
    with pytest.raises(msgspec.ValidationError):
        decode_for_matching(shorter.encode())
