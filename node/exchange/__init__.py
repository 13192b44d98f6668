"""What nodes exchange: messages, blocks in parts, relays, catching up, payloads, transactions.

Owns the wire types above p2p, the blocks in the making, and who gets which. Never judges what is
exchanged.
"""
