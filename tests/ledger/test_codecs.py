"""Updates of every codec at the ledger's door, and in a training round."""

import struct

import numpy as np
import pytest
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.receipt import RoundOutcome
from quorate.chain.task import TensorSpec, UpdateCodec
from quorate.chain.transaction import SubmitUpdate

from tests.ledger.chain import DIMENSION, INITIAL_WEIGHTS, PARTICIPANTS, Chain, make_spec
from tests.ledger.test_training import get_receipt

INT8 = {"codec": UpdateCodec.DENSE_INT8}
TOP_K = {"codec": UpdateCodec.TOP_K_INT16, "top_k": 2}


def make_update(
    chain: Chain, task_id: Hash, codec: UpdateCodec, payload: bytes, **changes: object
) -> SubmitUpdate:
    settings = {
        "codec": codec,
        "payload_hash": chain.payloads.put(payload),
        "payload_size": len(payload),
        **changes,
    }
    return chain.make_update(task_id, [0] * DIMENSION, **settings)


@pytest.mark.parametrize(
    ("form", "payloads", "mean"),
    [
        (
            INT8,
            [b"\x00" + struct.pack("<6b", 1, 2, 3, 4, 5, 127), b"\x04" + b"\x01" * 6],
            [9, 9, 10, 10, 11, 72],  # Halves away from zero.
        ),
        (
            TOP_K,
            [struct.pack("<2I2h", 0, 5, 10, -20), struct.pack("<2I2h", 4, 5, 8, -20)],
            [5, 0, 0, 0, 4, -20],
        ),
    ],
    ids=["int8", "top_k"],
)  # fmt: skip
def test_a_round_adds_the_mean_of_what_was_said(
    form: dict[str, object], payloads: list[bytes], mean: list[int]
) -> None:
    chain = Chain()
    task_id = chain.create_task(make_spec(**form), participants=2)
    codec = UpdateCodec(form["codec"])
    for key, payload in zip(PARTICIPANTS, payloads, strict=False):
        update = make_update(chain, task_id, codec, payload)
        result = chain.run_block(chain.sign(key, update))
    get_receipt(result, RoundOutcome.FINALIZED)
    shift = [tensor.weight_fraction_bits - tensor.update_fraction_bits for tensor in TENSORS]
    steps = np.array(mean) << np.repeat(shift, [tensor.size for tensor in TENSORS])
    expected = np.frombuffer(INITIAL_WEIGHTS, "<i4") + steps
    weights = chain.payloads.held[chain.get_task(task_id).weights_root]
    assert np.frombuffer(weights, "<i4").tolist() == expected.tolist()


TENSORS: tuple[TensorSpec, ...] = make_spec().tensors


@pytest.mark.parametrize(
    ("form", "payload", "code", "words"),
    [
        (INT8, b"\x09" + bytes(6), ErrorCode.VALUE_OUT_OF_RANGE, "exponent 0 .* is 9"),
        (INT8, bytes(3) + b"\x80" + bytes(3), ErrorCode.VALUE_OUT_OF_RANGE, "value 2 .* -128"),
        (INT8, bytes(6), ErrorCode.WRONG_SHAPE, "6 parameters in dense_int8 take 7"),
        (INT8, bytes(12), ErrorCode.WRONG_SHAPE, "6 parameters in dense_int8 take 7"),
        (TOP_K, bytes(12), ErrorCode.VALUE_OUT_OF_RANGE, "index 1 of the update is not above"),
        (TOP_K, struct.pack("<2I2h", 0, 6, 1, 1), ErrorCode.VALUE_OUT_OF_RANGE, "parameter 6;"),
        (TOP_K, struct.pack("<2I2h", 0, 1, 0, -32768), ErrorCode.VALUE_OUT_OF_RANGE, "value 1 "),
        (TOP_K, bytes(6), ErrorCode.WRONG_SHAPE, "6 parameters in top_k_int16 take 12"),
        (TOP_K, bytes(18), ErrorCode.WRONG_SHAPE, "6 parameters in top_k_int16 take 12"),
    ],
)
def test_malformed_updates_are_refused_at_the_door(
    form: dict[str, object], payload: bytes, code: ErrorCode, words: str
) -> None:
    chain = Chain()
    task_id = chain.create_task(make_spec(**form))
    update = make_update(chain, task_id, UpdateCodec(form["codec"]), payload)
    chain.assert_refused(chain.sign(PARTICIPANTS[0], update), code, words)


def test_the_codec_is_the_tasks() -> None:
    chain = Chain()
    task_id = chain.create_task(make_spec(**TOP_K))
    payload = bytes(7)
    update = make_update(chain, task_id, UpdateCodec.DENSE_INT8, payload)
    signed = chain.sign(PARTICIPANTS[0], update)
    chain.assert_refused(signed, ErrorCode.WRONG_CODEC, r"takes top_k_int16 \(3\)")


def test_bytes_found_valid_for_one_task_are_judged_anew_for_another() -> None:
    chain = Chain()
    dense = chain.create_task(make_spec("dense"))
    sparse = chain.create_task(make_spec("sparse", **TOP_K))
    payload = bytes(12)  # Six zeros, or the parameter 0 named twice.
    update = make_update(chain, dense, UpdateCodec.DENSE_INT16, payload)
    chain.run_block(chain.sign(PARTICIPANTS[0], update))
    update = make_update(chain, sparse, UpdateCodec.TOP_K_INT16, payload)
    signed = chain.sign(PARTICIPANTS[0], update)
    chain.assert_refused(signed, ErrorCode.VALUE_OUT_OF_RANGE, "is not above")
