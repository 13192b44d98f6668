"""The interface for clients: HTTP on the loopback address, JSON and MessagePack, events.

Owns what a request may look like and what its answer looks like, one file a group of handlers.
Never holds state of the chain: it reads what the node has, and hands transactions to the mempool.

`server` is the way in; a request passes `listening` (connections), `door` (who may ask, how much
at a time), `application` (routes) and a handler.
"""
