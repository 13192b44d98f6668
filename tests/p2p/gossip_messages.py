"""Gossipsub frames as a peer that follows no rules may build them."""

from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed

from p2p.libp2p_host import Host


def build_announcement(sender: Host, topic: str, body: bytes) -> rpc_pb2.Message:
    """A message that is signed as it should be."""
    host = sender._host
    message = rpc_pb2.Message(
        data=body, topicIDs=[topic], from_id=host.get_id().to_bytes(), seqno=b"1"
    )
    signed = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = host.get_private_key().sign(signed)
    message.key = host.get_public_key().serialize()
    return message


def build_frame(*messages: rpc_pb2.Message) -> bytes:
    """A frame that publishes messages."""
    return encode_varint_prefixed(rpc_pb2.RPC(publish=messages).SerializeToString())
