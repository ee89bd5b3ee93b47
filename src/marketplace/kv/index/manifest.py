"""The index's manifest and the form of its pages."""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from marketplace.basics import json_text
from marketplace.basics.json_text import InvalidData
from marketplace.basics.timestamps import age_in_seconds
from marketplace.kv import access as kv_access
from marketplace.kv.index.blocks import Block, check
from marketplace.kv.index.original_shape import ORIGINAL_SHAPE, array_start
from marketplace.kv.keys import INDEX_KEY
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills.fingerprint import Fingerprint

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024


class PageRef(msgspec.Struct, frozen=True, rename="camel"):
    key: str
    count: int
    first: str  # slug
    last: str
    digest: str  # of the value


class Recent(msgspec.Struct, frozen=True, rename="camel"):
    added_at: str
    entry: msgspec.Raw  # an encoded summary, decoded on its own: one broken entry hides no other


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    format: Literal["published-index"] = "published-index"
    version: Literal[1] = 1
    generation: str
    written_at: str  # the manifest
    rebuilt_at: str | None  # the pages; None: only `add_to_published_index` has written it
    count: int
    fingerprint: Fingerprint
    pages: list[PageRef]
    recent: list[Recent] = []


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """What the manifest alone tells; empty but for ``problem`` where there is no usable one.

    ``count`` and ``fingerprint`` are of the pages; ``recent`` entries were added since and may be
    new skills or new states of listed ones, so the index has ``count`` to ``count + recent``.
    """

    problem: str | None = None
    count: int = 0
    recent: int = 0
    fingerprint: Fingerprint | None = None
    age_seconds: float | None = None
    manifest: Manifest | None = None


async def index_header(env: Env) -> IndexHeader:
    """Count, age and fingerprint of the index, from one read. Raises KvError."""
    value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
    manifest = read_manifest(value)
    if isinstance(manifest, str):
        return IndexHeader(problem=manifest)
    return IndexHeader(
        count=manifest.count,
        recent=len(manifest.recent),
        fingerprint=manifest.fingerprint,
        age_seconds=age_in_seconds(manifest.rebuilt_at or manifest.written_at, env.now()),
        manifest=manifest,
    )


MISSING: Final = "missing"


def read_manifest(value: bytes | None) -> Manifest | str:
    """The manifest, or what is there instead of one."""
    if value is None:
        return MISSING
    if array_start(value) is not None:
        return ORIGINAL_SHAPE
    if len(value) > MAX_MANIFEST_BYTES:
        return f"damaged: a manifest of {len(value)} bytes"
    try:
        manifest = json_text.decode(value, Manifest)
    except json_text.InvalidData as error:
        return f"damaged: {str(error)[:100]}"
    if manifest.count != sum(page.count for page in manifest.pages):
        return "damaged: the pages do not add up to the count"
    return manifest


def decode_page(page: PageRef, value: bytes | None) -> Block:
    if value is None:
        raise InvalidData("missing")
    if page_digest(value) != page.digest:
        raise InvalidData("damaged")
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise InvalidData("damaged") from error
    return check(Block(page.first, page.last, page.count, data))


def encode_page(block: Block) -> bytes:
    """KV values are text, so the compressed lines travel as base64."""
    return base64.b64encode(block.data)


def page_digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:16]
