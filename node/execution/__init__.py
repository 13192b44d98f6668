"""Blocks on the ledger: building, judging and committing them.

Owns executed candidates and the chain's position. Never votes and never talks to a peer.
"""
