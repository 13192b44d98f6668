"""What nodes exchange: messages, repair, relays, catching up, payloads and transactions.

Owns the wire types above p2p and who gets which. Never judges what is exchanged.
"""
