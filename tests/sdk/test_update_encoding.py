"""Encoding in every codec: what is said, what is left, and that nothing gets lost in between.

The bytes are read back by the node's own reader, `aggregation.decode_update`.
"""

from collections.abc import Callable

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate import Client, Participant, RoundInfo, draft_task
from quorate.chain.round_policy import RoundMode
from quorate.chain.task import (
    AggregationRule,
    RoundPolicy,
    Stage,
    TensorSpec,
    UpdateCodec,
    UpdateLayout,
)
from quorate.errors import EncodingError, WaitTimeoutError
from quorate.fixed_point import Array, ModelSchema
from quorate.update_encoding import RESIDUAL_ABS_MAX, encode_update

from aggregation import decode_update
from tests.sdk.conftest import AUTHORITY, PARTICIPANTS
from tests.sdk.fake_node import Answer, FakeNode

KEY = PARTICIPANTS[0]


def make_schema(dimension: int, bits: int = 0) -> ModelSchema:
    return ModelSchema((TensorSpec("x", (dimension,), 0, bits),))


def say(
    values: list[float] | NDArray[np.float64],
    codec: UpdateCodec,
    top_k: int = 0,
    residual: list[float] | None = None,
) -> tuple[list[int], list[float], int]:
    """Encode at scale 1 and read back: the integers said, the residual, how many were cut off."""
    layout = UpdateLayout(codec, len(values), top_k)
    owed = None if residual is None else np.array(residual, np.float32)
    encoded = encode_update(make_schema(len(values)), layout, [np.array(values, float)], owed)
    said = decode_update(encoded.data, layout)[:].tolist()
    return said, encoded.residual.tolist(), encoded.saturated


INT16, INT8, TOP_K = UpdateCodec.DENSE_INT16, UpdateCodec.DENSE_INT8, UpdateCodec.TOP_K_INT16


def test_int16_rounds_and_cuts_off() -> None:
    said, left, saturated = say([1.25, -2.75, 32767.4, 32768.0, -1e6], INT16)
    assert said == [1, -3, 32767, 32767, -32767]
    np.testing.assert_allclose(left, [0.25, 0.25, 0.4, 1.0, -32767.0], rtol=1e-4)
    assert saturated == 2


def test_int8_scales_by_the_blocks_largest() -> None:
    # 127 fits as it is; 128 needs steps of 2; 1000 steps of 8.
    assert say([127.0, 3.0], INT8)[0] == [127, 3]
    assert say([128.0, 3.0], INT8) == ([128, 4], [0.0, -1.0], 0)
    assert say([-1000.0, 11.0], INT8) == ([-1000, 8], [0.0, 3.0], 0)
    # 127.6 rounds to 128, which steps of 1 cannot say.
    assert say([127.6], INT8)[0] == [128]


def test_int8_blocks_have_scales_of_their_own() -> None:
    values = np.zeros(1025)
    values[0], values[1], values[1024] = 20_000.0, 3.0, 3.0
    said, left, _ = say(values, INT8)
    assert (said[0], said[1], said[1024]) == (19_968, 0, 3)
    assert (left[0], left[1], left[1024]) == (32.0, 3.0, 0.0)


@pytest.mark.parametrize(
    ("value", "said", "saturated"),
    [
        (32_256.0, 32_256, 0),
        (32_511.0, 32_256, 0),  # 32,512 is no number of this codec: it stands for 32,767.
        (32_512.0, 32_767, 0),
        (32_767.0, 32_767, 0),
        (40_000.0, 32_767, 1),
    ],
)
def test_the_end_of_int8_is_the_end_of_the_range(value: float, said: int, saturated: int) -> None:
    left = min(value - said, RESIDUAL_ABS_MAX)
    assert say([value], INT8) == ([said], [left], saturated)
    assert say([-value], INT8) == ([-said], [-left], saturated)


def test_top_k_says_the_largest_and_owes_the_others() -> None:
    said, left, saturated = say([1.0, -9.5, 4.0, 0.0, 40_000.0], TOP_K, 2)
    assert said == [0, -10, 0, 0, 32767]
    assert left == [1.0, 0.5, 4.0, 0.0, 7233.0]
    assert saturated == 1


def test_of_equal_magnitudes_the_first_are_said() -> None:
    assert say([2.0, -2.0, 2.0, 1.0], TOP_K, 2)[0] == [2, -2, 0, 0]
    assert say([0.0, 0.0, 0.0], TOP_K, 2) == ([0, 0, 0], [0.0, 0.0, 0.0], 0)


def test_what_is_owed_is_said_when_it_has_grown() -> None:
    owed, said = [0.0, 0.0], []
    for _ in range(4):
        spoken, owed, _ = say([10.0, 4.0], TOP_K, 1, owed)
        said.append(spoken)
    # The second parameter is owed 4, 8 and then 12, which is more than the first one's 10.
    assert said == [[10, 0], [10, 0], [0, 12], [20, 0]]
    assert owed == [0.0, 4.0]


finite = st.floats(-50_000, 50_000, width=32)


@given(
    st.lists(st.lists(finite, min_size=5, max_size=5), min_size=1, max_size=6),
    st.sampled_from([(INT16, 0), (INT8, 0), (TOP_K, 1), (TOP_K, 3), (TOP_K, 5)]),
)
def test_what_was_said_and_what_is_owed_is_what_was_wanted(
    rounds: list[list[float]], form: tuple[UpdateCodec, int]
) -> None:
    owed: list[float] | None = None
    for values in rounds:
        before = np.zeros(5) if owed is None else np.array(owed, np.float32).astype(float)
        said, owed, saturated = say(values, *form, owed)
        wanted = np.array(values) + before
        rest = np.clip(wanted - said, -RESIDUAL_ABS_MAX, RESIDUAL_ABS_MAX)
        np.testing.assert_allclose(owed, rest, rtol=1e-6, atol=1e-6)
        named = [i for i in range(5) if said[i]] if form[0] is TOP_K else range(5)
        assert saturated == sum(abs(round(wanted[i])) > 32767 for i in named)
        assert all(abs(value) <= 32767 for value in said)


@given(st.lists(finite, min_size=1, max_size=12), st.data())
def test_encoders_agree_with_a_naive_choice(values: list[float], data: st.DataObject) -> None:
    bounded = [min(max(value, -32767.0), 32767.0) for value in values]
    top_k = data.draw(st.integers(1, len(values)))
    order = sorted(range(len(values)), key=lambda i: (-abs(bounded[i]), i))[:top_k]
    expected = [round(bounded[i]) if i in order else 0 for i in range(len(values))]
    assert say(values, TOP_K, top_k)[0] == expected
    # In int8, each number is the nearest that the least sufficient exponent can say.
    largest = max(abs(value) for value in bounded)
    exponent = next((e for e in range(8) if round(largest / 2**e) <= 127), 8)
    sayable = [q * 2**exponent for q in range(-127, 128)]
    if exponent == 8:
        sayable[0], sayable[-1] = -32767, 32767
    for value, said in zip(bounded, say(values, INT8)[0], strict=True):
        assert said in sayable
        assert abs(value - said) == min(abs(value - each) for each in sayable)


def test_scales_are_those_of_the_tensors() -> None:
    schema = ModelSchema((TensorSpec("a", (1,), 0, 4), TensorSpec("b", (2,), 0, 8)))
    layout = UpdateLayout(INT16, 3)
    encoded = encode_update(schema, layout, [np.array([1.5]), np.array([0.25, -1.0])])
    assert decode_update(encoded.data, layout)[:].tolist() == [24, 64, -256]


def test_a_residual_does_not_grow_for_ever() -> None:
    owed: list[float] | None = None
    for _ in range(5):
        _, owed, saturated = say([1e300, -1e9], INT16, 0, owed)
        assert owed == [RESIDUAL_ABS_MAX, -RESIDUAL_ABS_MAX]
        assert saturated == 2


def test_what_fits_another_model_is_refused() -> None:
    schema, layout = make_schema(3), UpdateLayout(INT16, 3)
    with pytest.raises(EncodingError, match=r"residual is of shape \(2,\), not \(3,\)"):
        encode_update(schema, layout, [np.zeros(3)], np.zeros(2, np.float32))
    with pytest.raises(EncodingError, match="layout has 4 parameters, not 3"):
        encode_update(schema, UpdateLayout(INT16, 4), [np.zeros(3)])
    with pytest.raises(EncodingError, match="not finite"):
        encode_update(schema, layout, [np.array([0, np.nan, 0])])


def test_nothing_of_the_callers_is_changed() -> None:
    update, owed = np.array([1.5, 2.5]), np.array([0.25, 0.0], np.float32)
    encode_update(make_schema(2), UpdateLayout(TOP_K, 2, 1), [update], owed)
    assert update.tolist() == [1.5, 2.5]
    assert owed.tolist() == [0.25, 0.0]


# --- the participant keeps it --------------------------------------------------------------------


def create_sparse_task(
    client: Client, updates: int = 1, mode: RoundMode = RoundMode.SYNCHRONOUS
) -> bytes:
    arrays = [np.zeros(4)]
    draft = draft_task(
        "sparse",
        arrays,
        RoundPolicy(60_000, updates, updates, mode=mode, staleness_max=4),
        rule=AggregationRule((Stage.MEAN,), 0),
        codec=TOP_K,
        density=0.25,
    )
    assert draft.spec.top_k == 1
    return bytes(client.create_task(AUTHORITY, draft.spec, draft.weights).hash)


def step(weights: list[Array], _info: RoundInfo) -> list[Array]:
    return [weights[0] + np.array([0.5, 0.25, 0.0, 0.0], np.float32)]  # type: ignore[operator]


def test_a_participant_adds_what_is_owed_to_the_next_update(client: Client) -> None:
    create_sparse_task(client)
    results = Participant(client, KEY, "sparse", step).run(4)
    # 0.25 is owed after the first round and 0.5 after the second; equal to 0.5, it comes later.
    assert [result.weights[0].tolist() for result in results] == [
        [0.5, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 0.75, 0.0, 0.0],
        [2.0, 0.75, 0.0, 0.0],
    ]


def test_without_error_feedback_nothing_is_owed(client: Client) -> None:
    create_sparse_task(client)
    results = Participant(client, KEY, "sparse", step, error_feedback=False).run(3)
    assert results[-1].weights[0].tolist() == [1.5, 0.0, 0.0, 0.0]


def test_nothing_is_owed_of_an_update_that_was_not_seen_to_be_counted(client: Client) -> None:
    create_sparse_task(client, updates=2)

    def lean(weights: list[Array], _info: RoundInfo) -> list[Array]:
        return [weights[0] + np.array([0.5, 0.375, 0.0, 0.0], np.float32)]  # type: ignore[operator]

    mine = Participant(client, KEY, "sparse", lean, round_timeout_s=0)
    for _ in range(2):
        with pytest.raises(WaitTimeoutError):
            mine.train_round()  # Submitted, but nobody else has come yet.
        Participant(client, PARTICIPANTS[1], "sparse", step).train_round()
    with pytest.raises(WaitTimeoutError):
        mine.train_round()
    result = Participant(client, PARTICIPANTS[1], "sparse", step).train_round()
    assert result.weights[0].tolist() == [1.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("codec", "density"), [(TOP_K, None), (TOP_K, 0.0), (TOP_K, 1.5), (INT8, 0.5), (INT16, 1.0)]
)
def test_a_density_belongs_to_top_k(codec: UpdateCodec, density: float | None) -> None:
    with pytest.raises(EncodingError, match="density"):
        draft_task("x", [np.zeros(4)], RoundPolicy(1, 1, 1), codec=codec, density=density)


def test_a_draft_names_at_least_one_parameter() -> None:
    policy = RoundPolicy(1, 1, 1)
    tiny = draft_task("x", [np.zeros(4)], policy, codec=TOP_K, density=0.01)
    assert tiny.spec.update_layout == UpdateLayout(TOP_K, 4, 1)
    whole = draft_task("x", [np.zeros(4)], policy, codec=TOP_K, density=1.0)
    assert whole.spec.update_layout == UpdateLayout(TOP_K, 4, 4)
    assert draft_task("x", [np.zeros(4)], policy, codec=INT8).spec.update_layout.size == 5


def test_what_was_owed_before_a_void_round_is_owed_after_it(client: Client, node: FakeNode) -> None:
    task_id = create_sparse_task(client)
    node.tasks[task_id].void = {1}
    results = Participant(client, KEY, "sparse", step).run(4)
    # Nothing of the second update was counted, neither what it said nor what it left unsaid.
    assert [result.weights[0].tolist() for result in results] == [
        [0.5, 0.0, 0.0, 0.0],
        [0.5, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 0.75, 0.0, 0.0],
    ]
    assert [result.is_counted for result in results] == [True, False, True, True]


@pytest.mark.parametrize(
    ("void", "expected"),
    [
        (set(), [[0.5, 0.0], [1.0, 0.0], [1.5, 0.0], [1.5, 0.75], [2.0, 0.75]]),
        ({1}, [[0.5, 0.0], [0.5, 0.0], [1.0, 0.0], [1.5, 0.0], [2.0, 0.0]]),
    ],
)
def test_of_two_updates_on_their_way_one_alone_says_what_was_owed(
    client: Client, node: FakeNode, void: set[int], expected: list[list[float]]
) -> None:
    task_id = create_sparse_task(client, mode=RoundMode.ASYNCHRONOUS)
    task = node.tasks[task_id]
    task.void = void

    def thaw(_request: httpx.Request, _route: Callable[[], Answer]) -> None:
        # The first result is there at once; later ones when the next buffer has its update.
        if task.frozen is not None and (task.training_round == 1 or task.updates):
            node.thaw(task_id)

    node.intercept = thaw
    participant = Participant(client, KEY, "sparse", step)
    results = [participant.train_round() for _ in expected]
    assert [result.training_round for result in results] == list(range(len(expected)))
    assert [result.weights[0][:2].tolist() for result in results] == expected
