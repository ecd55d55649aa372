"""trioweb and its peers, measured side by side in one run: `python -m benchmarks --help`.

    __main__.py   the cases, the rounds, the bars and the tables
    measure.py    one measurement of one peer
    servers.py    the servers under measurement, one small function for each peer
    clients.py    the clients under measurement, likewise
    load.py       the other end of both, never the bottleneck
    wire.py       RFC 6455 by hand, for the load and for the floor

Nothing here compares seconds between runs or machines: a claim is a ratio of two figures that
were taken in turn, and its spread.
"""
