"""The proofs: `make prove` runs them, docs/verification.md explains them.

Everything here reads the *source text* of `wormspace.paxos` that ships, executes its bytecode on
symbolic values, and hands what it finds to two SMT solvers.  Nothing here is imported by the
product.
"""
