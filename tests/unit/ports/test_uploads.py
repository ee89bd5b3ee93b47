"""How many uploads an isolate takes at once."""

import asyncio

from marketplace.ports.uploads import AT_ONCE, UPLOAD_SECONDS, Uploads


async def test_two_are_taken_and_a_third_when_one_is_given_back() -> None:
    uploads = Uploads()
    places = [uploads.take() for _ in range(AT_ONCE)]
    assert None not in places
    assert uploads.take() is None
    assert uploads.seconds_to_wait == UPLOAD_SECONDS

    uploads.free(places[0] or 0)

    assert uploads.take() is not None
    assert uploads.take() is None


async def test_a_place_that_nobody_gives_back_is_free_after_its_time() -> None:
    uploads = Uploads()
    first = [uploads.take() for _ in range(AT_ONCE)]
    await asyncio.sleep(UPLOAD_SECONDS - 1)
    assert uploads.take() is None
    assert uploads.seconds_to_wait == 1

    await asyncio.sleep(1)

    later = uploads.take()
    assert later is not None
    assert later not in first
