"""10 MiB up and down a hundred times: four minutes."""

import httpx

from tests.worker.test_content import GROWTH, up_and_down


def test_large_content_does_not_enter_the_heap_in_a_hundred_rounds(client: httpx.Client) -> None:
    assert up_and_down(client, 100) < GROWTH
