"""How bytes leave for a peer: by a kernel's socket, one with TLS on it, or any stream of Trio's.

Nothing here knows of frames, or keeps a queue of them.
"""
