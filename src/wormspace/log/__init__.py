"""WormLog: a shared log over the address space."""
