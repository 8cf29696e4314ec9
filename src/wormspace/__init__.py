"""WormSpace: an address space of write-once registers."""
