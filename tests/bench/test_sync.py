"""When the clock of catching up starts. Never starts a network."""

from bench.sync import Look, get_first


def make_looks(*heights: int) -> list[Look]:
    return [Look(10.0 + at / 10, height, 0.0, 0.0) for at, height in enumerate(heights)]


def test_the_clock_starts_at_the_last_look_that_found_no_block() -> None:
    looks = make_looks(0, 0, 0, 7, 30, 60)
    # With the look of height 7, the payloads of seven blocks would have taken no time.
    assert get_first(looks) is looks[2]


def test_a_node_that_is_quicker_than_the_first_look_is_counted_from_there() -> None:
    looks = make_looks(5, 30, 60)
    assert get_first(looks) is looks[0]
