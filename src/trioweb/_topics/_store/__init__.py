"""A store: what keeps topics over a restart, in SQLite and a journal in front of it.

`_node` is the way in for a hub, `_keeping` for an engine.  They are imported by whoever opens a
store, as SQLite is for nobody else.
"""
