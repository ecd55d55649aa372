"""How bytes leave for a peer, and come from it: by a kernel's socket, one with TLS on it, or any
stream of Trio's.

Nothing here knows of frames, or keeps a queue of them.
"""
