"""The changes of one token that a test should notice: cosmic-ray's, and a log line left out."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from cosmic_ray.ast import ast_nodes, get_ast, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword

# An operator becomes its neighbour, which is the hardest to notice. `|` is left alone: most of
# them are in annotations, which do nothing.
_BINARY: Final = (
    *("Add_Sub", "Sub_Add", "Mul_FloorDiv", "Div_Mul", "FloorDiv_Mul", "Mod_Sub", "Pow_Mul"),
    *("BitAnd_BitXor", "BitXor_BitOr", "LShift_RShift", "RShift_LShift"),
)
_COMPARISON: Final = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt"),
)
_NAMES: Final = (
    *(f"ReplaceBinaryOperator_{each}" for each in _BINARY),
    *(f"ReplaceComparisonOperator_{each}" for each in _COMPARISON),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not", "AddNot"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue"),
    *("ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer", "RemoveDecorator"),
    "ZeroIterationForLoop",
)

# What only the type checker or the memory notices.
_LEFT_ALONE: Final = re.compile(
    r"\b(frozen|slots|kw_only|weakref|gc)=|if TYPE_CHECKING|@(dataclass|override|overload|final)\b"
)
_LOG_LINE: Final = re.compile(r"\s*([\w.]+(\([\w.]*\))?\.)?_?log\(")


class DropLogLine(Operator):  # type: ignore[misc]
    """Leaves a log line out, which no operator of cosmic-ray does."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if (
            node.type == "atom_expr"
            and node.parent.type == "simple_stmt"
            and _LOG_LINE.match(node.get_code())
        ):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return Keyword("None", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> Sequence[Any]:
        return ()


@dataclass(frozen=True)
class Change:
    """One token changed in one file."""

    path: Path
    line: int
    operator: Operator
    occurrence: int

    def applied_to(self, source: str) -> str | None:
        """The file as it is then; None where that would be no change or no Python."""
        try:
            changed = mutate_code(source, self.operator, self.occurrence)
            assert isinstance(changed, str)
            same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source))
        except (AttributeError, SyntaxError):  # cosmic-ray cannot change a dotted exception
            return None
        return None if same else changed


def sample(files: Sequence[Path], size: int, seed: int) -> list[Change]:
    """So many different tokens, each with one of its changes."""
    provider = OperatorProvider()
    operators = [*(provider[name]() for name in _NAMES), DropLogLine()]
    by_token: dict[tuple[Path, Any], list[Change]] = {}
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        nodes = list(ast_nodes(get_ast_from_path(path)))
        for operator in operators:
            positions = [each for node in nodes for each in operator.mutation_positions(node)]
            for occurrence, (start, _end) in enumerate(positions):
                if not _LEFT_ALONE.search(lines[start[0] - 1]):
                    change = Change(path, start[0], operator, occurrence)
                    by_token.setdefault((path, start), []).append(change)
    random = Random(seed)
    tokens = sorted(by_token)
    random.shuffle(tokens)
    changes = (random.choice(by_token[token]) for token in tokens)
    possible = (each for each in changes if each.applied_to(each.path.read_text("utf-8")))
    return list(islice(possible, size))


def name_defined_at(source: str, line: int) -> str | None:
    """The first name of the statement there: of a limit its own."""
    leaf = get_ast(source).get_leaf_for_position((line, 0), include_prefixes=True)
    while leaf is not None and leaf.type != "name":
        leaf = leaf.get_next_leaf()
    return None if leaf is None else str(leaf.value)
