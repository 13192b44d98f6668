"""Quorate's Python SDK: take part in a task, submit updates, and verify what was trained.

Owns what a participant's script imports. Never imports the daemon, trio or libp2p.
"""
