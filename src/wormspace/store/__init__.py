"""Tables on a disk of one's own: what a server's acceptors and the key-value store rest on."""
