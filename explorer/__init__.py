"""The explorer: every interleaving of a small world, on the code that ships; see docs/testing.md.

Tests run it (`tests/sim/test_explore.py`).  Nothing here is imported by the product.
"""
