"""Write-once registers: the contract, and the implementations of it.

`contract` says what a register is, `spec` is that in executable form, `paxos_registers` is the
replicated one.  Nothing here knows of segments' meaning: an array of registers has a name and a
number.
"""
