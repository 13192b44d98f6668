"""The demonstration: eight participants train a classifier over four validators.

Owns what ``quorate demo`` runs: the data and the model, the participants, the terminal, and the
criteria. Never reaches into a node: it goes through the SDK and the nodes' RPC, like anybody.
"""
