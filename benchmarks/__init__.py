"""trioweb and its peers, measured side by side in one run: `python -m benchmarks --help`.

    __main__.py   the command line: which cases, how many rounds, what is written
    cases.py      the questions, the peers that they are put to, and the bars
    peers.py      the peers: what each needs, its version, its colour
    report.py     ratios, verdicts and tables
    plots.py      the pictures
    measure.py    one measurement of one peer
    task.py       what a measurement tells the two processes that it starts
    servers.py    the servers under measurement, one small function for each peer
    external.py   likewise those that are not written in Python (one is in node_server.js)
    jobs.py       what such a server does while it is measured, the same for all
    stalled.py    a broadcast beside subscribers that stopped reading
    storm.py      very many that come back at once, beside a live topic
    hubs.py       what a hub takes of memory
    clients.py    the clients under measurement, one small function for each peer
    resilience.py what our resilient client costs
    imports.py    what it costs to import a peer
    load.py       the other end of all, never the bottleneck
    readers.py    how that reads, and whom it tells
    wire.py       RFC 6455 by hand, for the load and for the floor

Nothing here compares seconds between runs or machines: a claim is a ratio of two figures that
were taken in turn, and its spread.
"""
