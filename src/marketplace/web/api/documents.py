"""The shapes of answers, for ``/openapi.json``."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from marketplace.catalog.answer import Source
from marketplace.skills.skill import CertMethod, CertTier
from marketplace.skills.submission import SubmissionState


class Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False)


class SummaryDocument(Document):
    """A skill as listings show it; ``name`` is the slug, ``description`` may be shortened."""

    name: str
    base_slug: str
    display_name: str
    description: str
    author: str
    repo_url: str
    skill_path: str
    license: str | None
    category: str
    current_version: str
    cert_tier: CertTier
    cert_method: CertMethod
    cert_score: int
    certified_at: str | None
    labels: list[str]
    extensible: bool
    trending_score_7d: Annotated[float, Field(alias="trendingScore7d")]
    trending_score_30d: Annotated[float, Field(alias="trendingScore30d")]
    published_at: str
    updated_at: str


class _Answered(Document):
    source: Source
    degraded: bool
    reasons: list[str]


class SkillDocument(SummaryDocument, _Answered):
    """A skill, whole."""

    extension_points: list[str]


class ListingDocument(_Answered):
    """One page of a listing."""

    skills: list[SummaryDocument]
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


class StatusDocument(Document):
    """Where a submission stands. ``status`` is ``state`` once more."""

    id: str
    state: SubmissionState
    status: SubmissionState
    repo_url: str
    skill_name: str
    received_at: str
    scanned_at: str | None
    published_at: str | None
    rejected_at: str | None
    slug: str | None
    reason: str | None


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
