"""`task init`, `check`, `history`, `show --round`: what people read before and after training."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.cli.console import Console, Outcome, run_process
from tests.node.cluster import USERS
from tests.node.rpc.serving import Served, make_payload, make_spec, make_update, open_rpc, open_task

ALICE, BOB, CAROL = USERS[:3]


def test_a_new_description_is_one_that_checks(quorate: Console, tmp_path: Path) -> None:
    path, weights = tmp_path / "task.toml", tmp_path / "w.npz"
    made = quorate("task", "init", path, "--name", "digits")
    assert (made.code, path.exists()) == (0, True)
    assert "is there already" in quorate("task", "init", path).sentence
    assert "cannot be written" in quorate("task", "init", tmp_path / "no" / "t.toml").sentence
    np.savez(weights, w=np.zeros((3, 4)))
    text = quorate("task", "check", path, "--weights", weights)
    assert text.code == 0
    for told in (
        "Updates become one by arc > nnm > geometric_median.",
        "geometric_median needs n >= 2 * num_byzantine + 1 = 3 updates (num_byzantine is 1)",
        "Up to 1 of the registered participants may be hostile",
        "or 1m of block time after it opened, with 3 at least.",
        "extended by 1m, 16 times at most, and then void",
        "nothing in 3 rounds in a row is not awaited",
        "The model has 12 parameters: 48 bytes of weights, 24 bytes an update in dense_int16.",
        "A full round costs 8 updates x 12 parameters x 7, the weight of the rule, = 672 units",
        " to aggregate; a block may spend 200000000 units, unless the chain's",
        " aggregation_cost_block_max says otherwise: the block that seals a round has its result.",
    ):
        assert told in text.out, told
    shown = quorate("task", "check", path, "--output", "json").data
    assert shown["name"] == "digits"
    assert not any("parameters:" in sentence for sentence in shown["explanation"])
    plain = tmp_path / "plain.toml"
    plain.write_text(
        'name = "p"\n[policy]\nupdates_min = 1\nupdates_max = 2\n[rule]\nstages = ["mean"]\n'
    )
    assert "mean needs n >= 1 updates; a" in quorate("task", "check", plain).out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("updates_min = 3", "updates_min = 2", "arc needs n >= 2 * num_byzantine + 1 = 3"),
        ("updates_max = 8", "updates_max = 2", "raise updates_max"),
        ("# bucket_size = 0", "bucket_size = 2", "bucket_size is a parameter of bucketing"),
        ('# name = "sgd"', 'name = "adam"', "adam needs a positive adaptivity"),
        ("# momentum = 0.0", "momentum = 0.5", "sgd has no momentum"),
        ("# example_count_max = 0", "example_count_max = 9", "ignores example counts"),
        ("# silent_rounds_max = 3", "silent_rounds_max = 65", "<= 64"),
    ],
)
def test_what_no_node_takes_is_said_before_it_is_sent(
    quorate: Console, tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "task.toml"
    quorate("task", "init", path)
    path.write_text(path.read_text().replace(old, new, 1))
    assert told in quorate("task", "check", path).sentence


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_byzantine = 1": "num_byzantine = 0"}, "To tolerate one, raise it, with updates_min"),
        (
            {
                "num_byzantine = 1": "num_byzantine = 0",
                '# stages = ["arc", "nnm", "geometric_median"]': 'stages = ["mean"]',
            },
            "This rule tolerates none: put clip or arc in front",
        ),
        ({'# mode = "synchronous"': 'mode = "asynchronous"'}, "8 fill one."),
        ({"# staleness_max = 0": "staleness_max = 3"}, "counts 0.50 of a fresh one"),
        ({"# is_void_below_minimum = false": "is_void_below_minimum = true"}, "it is void."),
        ({"# silent_rounds_max = 3": "silent_rounds_max = 0"}, "however long silent"),
        ({"# rounds_max = 0": "rounds_max = 7"}, "completes after 7"),
        ({"# waive_proposer_spread = false": "waive_proposer_spread = true"}, "is waived"),
    ],
)
def test_choices_are_explained(
    quorate: Console, tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    path = tmp_path / "task.toml"
    quorate("task", "init", path)
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    assert told in quorate("task", "check", path).out


async def train(served: Served, task_id: bytes, rounds: int) -> None:
    for number in range(rounds):
        body, payload = make_update(served, task_id, make_payload(number + 1))
        await served.send(BOB, body, payload)
        with trio.fail_after(10):
            while True:
                task = served.services.executor.state.get_task(task_id)  # type: ignore[arg-type]
                if task is not None and task.training_round > number:
                    break
                await trio.sleep(0.02)


async def test_rounds_are_legible(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served:
        spec = make_spec("north/digits", updates_max=2, deadline_ms=200, silent_rounds_max=1)
        task_id = await open_task(served, ALICE, BOB, CAROL, spec=spec)
        await train(served, task_id, 3)

        async def run(*arguments: object) -> Outcome:
            # In a process of its own: in this one the node writes its log to the same place.
            call = partial(run_process, *arguments, "--node", served.url)
            return await trio.to_thread.run_sync(call)

        rows = (await run("task", "history", "north/digits", "--output", "json")).data["rounds"]
        assert [row["round"] for row in rows] == [2, 1, 0]
        assert [row["cause"] for row in rows] == ["everyone", "deadline", "deadline"]
        assert {(row["outcome"], row["updates"], row["absent"]) for row in rows} == {
            ("finalized", 1, 1)
        }
        table = await run("task", "history", "north/digits", "--limit", 2)
        assert len(table.out.splitlines()) == 3
        assert table.out.splitlines()[1].split()[:2] == ["2", "finalized"]

        shown = (await run("task", "show", "north/digits", "--round", 2, "--output", "json")).data
        assert (shown["score"], shown["rule"], shown["cause"]) == (
            "leave_one_out",
            ["mean"],
            "everyone",
        )
        assert [(row["participant"], row["outcome"]) for row in shown["rows"]] == [
            (BOB.address.hex(), "counted"),
            (CAROL.address.hex(), "excused"),
        ]
        text = (await run("task", "show", "north/digits", "--round", 1)).out
        assert f"{CAROL.address.hex()}  silent" in text
        opened = (await run("task", "show", "north/digits", "--round", 3)).out
        assert "status" in opened
        assert "awaited" in opened
        task = (await run("task", "show", "north/digits", "--output", "json")).data
        assert (task["mode"], task["silent_rounds_max"]) == ("synchronous", 1)
