"""What RFC 6455, RFC 7692 and HTTP say, without any I/O: time and randomness are arguments.

NOTE: Nothing here imports Trio, nor what does.
"""
