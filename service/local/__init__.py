"""What a one-machine run needs: an embedded Postgres and a local chain."""
