"""A position is stored at every step, so it has to be short; and it is read after every restart."""

import msgspec

from llmrouter.metering.facts import Position


def test_a_position_is_short_and_comes_back_as_it_was() -> None:
    position = Position("0-7.jsonl", 48_213, 1_902, {"0-6.jsonl": [(310, 500, 1_200_000)]})

    stored = msgspec.json.encode(position)

    assert msgspec.json.decode(stored, type=Position) == position
    assert stored == b'["0-7.jsonl",48213,1902,{"0-6.jsonl":[[310,500,1200000]]},false]'


def test_a_position_of_an_earlier_version_may_lack_what_came_later() -> None:
    assert msgspec.json.decode(b'["0-7.jsonl",48213]', type=Position) == Position(
        "0-7.jsonl", 48_213
    )
