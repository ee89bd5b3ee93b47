"""What Cloudflare documents about KV and Workers. The doubles take these limits from the code, so
no other test would notice a wrong one."""

from marketplace.basics.concurrency import SIMULTANEOUS_CONNECTIONS
from marketplace.kv.access import MAX_KEY_BYTES
from marketplace.ports import kv


def test_kv_is_asked_for_as_much_as_it_gives() -> None:
    assert (kv.KV_BULK_GET_LIMIT, kv.KV_LIST_LIMIT) == (100, 1000)
    assert (MAX_KEY_BYTES, kv.KV_METADATA_LIMIT) == (512, 1024)
    assert kv.KV_VALUE_LIMIT == 25 * 1024 * 1024
    assert kv.KV_WRITE_INTERVAL == 1.0


def test_an_invocation_has_six_connections() -> None:
    assert SIMULTANEOUS_CONNECTIONS == 6
