"""HTTP: routers by audience, one table of problems, and nothing that decides about money."""
