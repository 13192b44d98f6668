"""The replicated state machine: what blocks do to accounts, members, tasks and training rounds.

Owns the state and its root, the genesis state, the rules by which a transaction is allowed and
what it changes, and the read models over committed state. Does no I/O, reads no clock, draws no
random number, computes on no floats, and iterates over no sets: the same genesis and the same
blocks give the same bytes on every machine.

The caller's duties: it verifies signatures (of transactions and of evidence) before it executes;
it stores a result's artifacts, then its writes, and only then calls `State.commit`.

Start reading at `execution`, which is a table of contents; each domain has a file of its own.
"""
