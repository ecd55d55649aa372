"""A store: what keeps a hub's topics over a restart, in SQLite and a journal in front of it.

`_node` is the way in.  It is imported by whoever opens a store, as SQLite is for nobody else.
"""
