"""What a node keeps on its disk: the write-ahead log, the database and the payload files.

Owns bytes at rest: their formats, their checksums, the order in which they become durable, and
what is said when they are damaged. Knows heights and hashes; never knows what a block, a vote or
an update means, and never the network.

The order at a decision is the caller's to keep: payloads durable first (`PayloadStore.sync`), then
one synced batch (`ChainStore.commit`), then the end of the height in the log (`mark`).
"""
