"""The shapes of answers, for ``/openapi.json``."""

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from marketplace.catalog.answer import Source
from marketplace.skills.skill import INTERNAL, Skill, SkillSummary
from marketplace.skills.submission import SubmissionState, SubmissionStatus


class Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False)


class _Answered(Document):
    source: Source
    degraded: bool
    reasons: list[str]


def _fields_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        field.name: (field.type, Field(alias=field.encode_name))
        for field in msgspec.structs.fields(kind)
        if field.name not in INTERNAL
    }


SummaryDocument = create_model(
    "SummaryDocument",
    __base__=Document,
    __doc__="A skill as listings show it; ``name`` is the slug, ``description`` may be shortened.",
    **_fields_of(SkillSummary),
)
SkillDocument = create_model(
    "SkillDocument",
    __base__=(SummaryDocument, _Answered),
    __doc__="A skill, whole.",
    **_fields_of(Skill),
)


class ListingDocument(_Answered):
    """One page of a listing."""

    skills: list[SummaryDocument]  # type: ignore[valid-type]  # a variable, for mypy
    total: int
    limit: int
    offset: int | None
    next_cursor: str | None


class CountDocument(_Answered):
    """How many skills match."""

    count: int


class CategoryDocument(Document):
    """A category and its skills."""

    name: str
    count: int


class CategoriesDocument(_Answered):
    """The categories, the largest first."""

    categories: list[CategoryDocument]


class ReceiptDocument(Document):
    """What became of a request to be listed. ``submissionId`` is ``id`` once more."""

    id: str | None
    submission_id: str | None
    state: SubmissionState
    skill_name: str
    slug: str | None = None
    duplicate: bool = False
    already_verified: bool = False
    blocked: bool = False


StatusDocument = create_model(
    "StatusDocument",
    __base__=Document,
    __doc__="Where a submission stands. ``status`` is ``state`` once more.",
    status=(SubmissionState, ...),
    **_fields_of(SubmissionStatus),
)


class RefusedDocument(Document):
    """A verdict that changed nothing, and why."""

    submission_id: str
    reason: str


class ResultsReceiptDocument(Document):
    """What became of the verdicts of a call."""

    accepted: list[str]
    rejected: list[RefusedDocument]


class ProblemDocument(BaseModel):
    """Problem details, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


def documented(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The responses of a route for the OpenAPI document; the route encodes them itself."""
    problem: dict[str, Any] = {
        "model": ProblemDocument,
        "content": {"application/problem+json": {}},
    }
    return {status: {"model": model}, "4XX": problem, "5XX": problem}
