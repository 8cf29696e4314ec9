"""Write-once registers: the contract, and the implementations of it.

`contract` says what a register is, `spec` is that in executable form, and `paxos_registers` is the
replicated implementation, on servers.  Registers lie in arrays, each with a name and a number.  Of
what an array is for, this package knows only which register says it, and which one ends the array.
"""
