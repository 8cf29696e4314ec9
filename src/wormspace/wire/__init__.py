"""How messages travel: frames, their encoding, and both ends of a connection.

docs/protocol.md describes every byte, so that another language can speak it.
"""
