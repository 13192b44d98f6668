"""Types that many threads use for the first time at once."""

import subprocess
import sys
from pathlib import Path

# Types nobody has used before, each asked for by eight threads at the same moment, two in each of
# the four ways to ask.
FIRST_USES = """
import sys
from threading import Barrier, Thread
from msgspec import Struct
from quorate.chain.codec import decode, encode
from quorate.chain.known_types import convert_plain, decode_json, get_type_info

options = "array_like=True, frozen=True, forbid_unknown_fields=True"
for number in range(200):
    exec(f"class A{number}(Struct, {options}):\\n a: int\\n b: str")
    exec(f"class B{number}(Struct, {options}):\\n a: A{number}\\n b: tuple[A{number}, ...]")
sys.setswitchinterval(1e-6)
barrier = Barrier(8)

def describe(kind, value):
    assert [field.name for field in get_type_info(kind).fields] == ["a", "b"]
    return decode(kind, encode(value), 100)

ways = (
    lambda kind, value: decode(kind, encode(value), 100),
    lambda kind, value: convert_plain([[1, "x"], [[2, "y"]]], kind),
    lambda kind, value: decode_json('[[1, "x"], [[2, "y"]]]', kind),
    describe,
)

def use(read):
    for number in range(200):
        outer, inner = globals()[f"B{number}"], globals()[f"A{number}"]
        value = outer(inner(1, "x"), (inner(2, "y"),))
        barrier.wait()
        assert read(outer, value) == value

threads = [Thread(target=use, args=(ways[number % 4],)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


def test_first_use_of_a_type_by_many_threads_crashes_nothing() -> None:
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FIRST_USES],
        cwd=root / "sdk",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
