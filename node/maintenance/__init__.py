"""What is done to the data of a node that does not run: looking, going back, copying, dropping.

Owns these works, each a function over a home folder that it locks. Never touches the validator's
keys, and its last-signed record only where a caller says so in so many words.
"""
