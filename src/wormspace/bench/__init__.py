"""Benchmarks: closed loops over real server processes, with their floor in the same run."""
