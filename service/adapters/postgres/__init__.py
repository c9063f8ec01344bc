"""The event log in Postgres. Read `tables.py`, then `group_commit.py`, then `event_store.py`."""
