"""The wormserver: acceptors for any number of registers, on a durable store, behind a socket.

It knows nothing of what segments mean, nor of other servers.
"""
