"""Use cases, one a module. They never import each other, except `commit`, the door to the log."""
