"""How long a message waits until it is delivered again."""

from marketplace.ports.queue import retry_delay


def test_a_message_waits_twice_as_long_each_time_and_eleven_minutes_at_most() -> None:
    assert [retry_delay(attempts) for attempts in range(1, 5)] == [5, 10, 20, 40]
    assert [retry_delay(attempts) for attempts in (7, 8, 9, 100)] == [320, 640, 640, 640]
