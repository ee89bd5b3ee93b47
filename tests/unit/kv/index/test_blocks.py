"""Blocks of summaries are merged by slug."""

from hypothesis import given
from hypothesis import strategies as st

from marketplace.kv.index import blocks as index_blocks
from tests.doubles.marketplace import make_skill


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=40), max_size=4)
)
def test_merging_blocks_keeps_the_newest_of_each_slug(layers: list[list[tuple[int, int]]]) -> None:
    expected: dict[str, str] = {}
    packed = []
    for layer in layers:
        entries = [
            make_skill(f"s-{slug:02}", current_version=f"1.{minor}.0").published_summary()
            for slug, minor in layer
        ]
        for entry in entries:
            name = entry.summary.name
            expected[name] = max(expected.get(name, ""), entry.revision)
        size = 3
        packed.append(
            [
                index_blocks.pack(map(index_blocks.entry_of, entries[start : start + size]))
                for start in range(0, len(entries), size)
            ]
        )
    merged = list(index_blocks.iterate(index_blocks.merge(packed, without={"s-07"})))
    expected.pop("s-07", None)
    assert [(e.summary.name, e.revision) for e in merged] == sorted(expected.items())
