"""Which characters a text in a request may have, by the kind of the field.

A store refuses some of the others, which would look like its failure: PostgreSQL has no room for
NUL, and UTF-8 none for half a surrogate pair. The rest would garble what people read.
"""

import re
from typing import Final

from pydantic import AfterValidator

_CONTROLS: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
_LINE_ENDS: Final = r"\t\n\u2028\u2029"
# They turn the reading direction of all that follows, in a list, a terminal or a log line too.
_TURNS: Final = r"\u202a-\u202e\u2066-\u2069"


def _without(characters: str, *, stripped: bool) -> AfterValidator:
    unfit = re.compile(f"[{characters}]")

    def check(text: str) -> str:
        found = unfit.search(text)
        if found is not None:
            raise ValueError(f"must not contain the character U+{ord(found[0]):04X}")
        return text.strip() if stripped else text

    return AfterValidator(check)


ONE_LINE: Final = _without(_CONTROLS + _LINE_ENDS + _TURNS, stripped=True)
"""A text that is kept: a name, a label, a path."""

PROSE: Final = _without(_CONTROLS + _TURNS, stripped=True)
"""A text for people that is kept; it may have several lines, and tabs."""

SOUGHT: Final = _without(_CONTROLS, stripped=False)
"""Words to search for: nothing is kept of them, so that pasted text is welcome."""

LOOKED_UP: Final = _without(_CONTROLS + _LINE_ENDS, stripped=False)
"""What must be equal to something that is kept: a slug, an id, a filter."""
