"""Single-shot Paxos for arrays of registers, sans-IO: ballots, messages, acceptor, proposers.

Everything here is a pure function on frozen structs: no sockets, files, clocks or randomness.
The asyncio client, the server, the simulator, the exhaustive explorer and the prover all run
these very functions.  Loops are folds over named steps, and ballots, offsets and values are
only ever compared: that is what makes the code provable (docs/verification.md).
"""
