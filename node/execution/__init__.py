"""Blocks on the ledger: building, judging and committing them.

Owns executed candidates and the chain's position. Never waits for what is missing, never votes and
never talks to a peer.
"""
