"""Benchmarks that anyone can run again: the aggregation rules, the ledger, a whole network.

Owns measurement, its tables and its JSON. Never asserts a time: machines differ.
"""
