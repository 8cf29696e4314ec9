"""What the applications share that use up one segment after the other.

`segments` finds the next segment or allocates it, and holds one that was captured; `settling`
decides registers that others have left empty.
"""
