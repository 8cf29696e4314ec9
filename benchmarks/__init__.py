"""How fast it is, beside what it could be at best: for who works on it, see docs/performance.md.

`python -m benchmarks --help` from the root of the repository; the other files are programs.
"""
