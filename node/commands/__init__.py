"""The commands of the command line, a module per group.

Owns what each command does with the node's and the SDK's functions, and what it prints: data on
standard output, everything else on standard error. Never decides rules of the node or the chain.
"""
