"""The room that keeps mempools filled and not overflowing."""

import threading

from bench.submitting import Room


def test_room_is_never_exceeded_and_comes_back() -> None:
    room = Room(10)
    assert room.take(6)
    assert room.take(4)
    waiter_got: list[bool] = []
    waiter = threading.Thread(target=lambda: waiter_got.append(room.take(5)))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    assert room.under_way == 10
    room.give_back(5)
    waiter.join(5)
    assert waiter_got == [True]
    assert room.under_way == 10


def test_nobody_waits_for_room_that_is_closed() -> None:
    room = Room(1)
    assert room.take(1)
    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(room.take(1)))
    waiter.start()
    room.stop()
    waiter.join(5)
    assert got == [False]
    assert not room.take(0)
