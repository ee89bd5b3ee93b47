"""The marketplace with one protection taken out: what the simulation has to find."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

Mutation = Callable[[], AbstractContextManager[object]]
MUTATIONS: Final[dict[str, Mutation]] = {}


def mutated(name: str | None) -> AbstractContextManager[object]:
    """The marketplace without that protection, as long as the context lasts; None: unchanged."""
    return nullcontext() if name is None else MUTATIONS[name]()
