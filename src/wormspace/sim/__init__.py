"""A deterministic world in which the shipped client and server run: time, network, disks, faults."""
