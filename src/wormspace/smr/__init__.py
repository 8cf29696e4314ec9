"""WormPaxos: replicated state machines over the address space."""
