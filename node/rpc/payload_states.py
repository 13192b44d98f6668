"""Where a payload stands, as an answer: what of it is here, and who has told of having it.

Owns this one answer, which requests about payloads and about pending transactions share. Never
changes anything.
"""

from quorate.chain.ids import Hash

from node.rpc import answers
from node.rpc.context import RpcContext
from node.uploads import UploadState


def show_payload(node: RpcContext, state: UploadState) -> answers.Payload:
    """Return the answer about a payload of which something is here."""
    services = node.services
    return answers.Payload(
        state.payload_hash.hex(),
        str(state.size),
        not state.missing,
        list(state.missing),
        str(services.announcements.get_power(state.payload_hash)),
        str(services.executor.position.validators.total_power),
    )


async def find_payload(node: RpcContext, payload_hash: Hash) -> answers.Payload | None:
    """Return the answer about a payload, or None if nothing of it is here."""
    state = await node.services.uploads.get(payload_hash)
    return None if state is None else show_payload(node, state)
