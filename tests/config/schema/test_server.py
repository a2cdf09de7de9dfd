"""`[server]`: the defaults of the design."""

from llmrouter.config.schema import Server


def test_defaults_are_those_of_the_design() -> None:
    server, limits, timeouts = Server(), Server().limits, Server().timeouts

    assert (server.listen, server.admin_listen) == ("127.0.0.1:4000", "127.0.0.1:4001")
    assert (server.workers, server.tls) == (0, None)
    assert (limits.connections, limits.head_bytes, limits.body_bytes) == (
        10_000,
        65_536,
        33_554_432,
    )
    assert (limits.inflight, limits.queued, limits.buffered_bytes) == (4_000, 2_000, 536_870_912)
    assert (timeouts.head, timeouts.body, timeouts.idle, timeouts.drain) == (10, 60, 75, 30)
