"""Tendermint consensus (arXiv:1807.04938) as a machine without input or output of its own.

One door in, `Driver.receive(input)`, and one list out, the effects. The caller's duties:

1. Write each input to the log before performing the effects it led to.
2. Sign what `Broadcast` holds (after checking the last-signed record), send it, and feed it back
   as `VoteReceived` or `ProposalReceived`.
3. Answer `RequestProposal` with `ProposeBlock`, and `JudgeProposal` with `ProposalJudged` once
   there is a verdict. The verdict is a function of the block and the state before it alone:
   never of the round, the proposer or the time of a proposal that names the block.
4. Turn `ScheduleTimeout` into `TimeoutElapsed` when the time is over.
5. After `Decide`, feed `StartHeight` of the next height when there is something to do, and at the
   latest when `Driver.has_messages_for` says that somebody has started it.
6. Exchange `Driver.get_status()` with peers now and then, and send what `Driver.get_repairs`
   returns for theirs.

After a restart: feed the logged inputs again, drop the effects, then perform
`Driver.get_pending_effects()`.

Owns rounds, votes, locks and the buffers before them. Never knows what a block holds, reads no
clock, draws no random numbers and touches neither disk nor network.
"""
