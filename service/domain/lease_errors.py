"""Refusals of leases."""

from service.domain.errors import Rejected


class LeaseHeld(Rejected):
    """Another holder has the channel's lease."""

    code = "lease_held"
    hint = "Try again later: a lease ends by itself, or is given back."
