"""The peer-to-peer network: links, requests, announcements, peer keeping and scoring.

Owns everything between a socket and an opaque message body. Never knows what a body means: blocks,
votes and transactions are the node's. One file alone imports py-libp2p (``libp2p_host``).
"""
