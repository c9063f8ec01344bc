"""The pure middle: bytes, integers and frozen dataclasses. No clock, no I/O, no logging."""
