"""How messages travel: frames, their encoding, and the client's end of a connection.

docs/protocol.md describes every byte, so that another language can speak it.
"""
