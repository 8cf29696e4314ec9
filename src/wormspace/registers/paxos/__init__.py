"""Registers over Paxos, the client's side: `wormspace.paxos` on links to servers."""
