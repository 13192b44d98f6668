"""Deterministic simulation: whole nodes on a virtual clock, with faults drawn from a seed."""
