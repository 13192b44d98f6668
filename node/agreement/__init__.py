"""Consensus at work: the one loop that feeds the driver and performs its effects.

Owns the inbox, the timers, the signer, pending evidence, the waiting for what a block needs, and
the restart from the log. Never holds a rule of consensus: the driver does.
"""
