"""What a stream was paid and what of it is spoken for. Pure; amounts are atomic units."""


class Credit:
    """Paid for, reserved for the unit under way, delivered.

    `reserved + delivered <= paid` always: a unit can only be reserved out of what is left.
    """

    def __init__(self, paid: int) -> None:
        self.paid = paid
        self.reserved = 0
        self.delivered = 0

    @property
    def left(self) -> int:
        """What can still be reserved."""
        return self.paid - self.delivered - self.reserved

    def add(self, amount: int) -> None:
        """A further voucher was accepted."""
        assert amount >= 0
        self.paid += amount

    def reserve(self, amount: int) -> bool:
        """Set an amount aside for one delivery; False when not so much is left."""
        assert amount >= 0
        assert self.reserved == 0
        if amount > self.left:
            return False
        self.reserved = amount
        return True

    def commit(self) -> None:
        """What was reserved is delivered."""
        self.delivered += self.reserved
        self.reserved = 0

    def release(self) -> None:
        """What was reserved was not delivered."""
        self.reserved = 0
