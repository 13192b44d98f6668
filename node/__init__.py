"""The node: the composition of consensus, ledger, store and network into one process.

Owns the order of things: what is made durable before what leaves, which task waits for which, and
the limits of every queue between them. Never holds a rule of consensus or of the ledger.
"""
