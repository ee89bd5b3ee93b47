"""Seeded decisions that are the same on every machine and Python version."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """A stream of decisions from one seed.

    Built on ``Random.random()`` alone: of Python's generators it is the one whose sequence is
    promised to stay the same from version to version.
    """

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self._random = random.Random(seed).random

    def fork(self, name: str) -> "Chance":
        """An independent stream, so that decisions made elsewhere do not shift the ones here."""
        return Chance(f"{self.seed}/{name}")

    def below(self, limit: int) -> int:
        """A whole number in [0, limit)."""
        return int(self._random() * limit)

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random()

    def happens(self, probability: float) -> bool:
        """Whether something of this probability happens. Certainties use up no decision."""
        return probability > 0 and (probability >= 1 or self._random() < probability)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self._random() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in some order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(len(rest))]
