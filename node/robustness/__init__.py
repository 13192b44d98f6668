"""How accurate models get while some participants are hostile: `quorate bench robustness`.

Owns attacks, training among honest and hostile participants in one process, the grid of cases, and
its table and figure. Never talks to a node: a round is aggregated by the same integer code that
the ledger calls.
"""
