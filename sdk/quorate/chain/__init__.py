"""The chain's types and their verification: all that a node and a client must agree on.

Owns ids, codec, keys, Merkle trees, transactions, blocks, votes, commits, evidence, validator
sets, parameters, genesis and the error tree. Never does I/O, reads a clock, or draws a random
number other than to make a key.
"""
