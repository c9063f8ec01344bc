"""Token amounts as people write them, and as chains count them. Exact: no floats anywhere."""

import re
from typing import Final

from session_ledger.x402.errors import X402Error

USDC_DECIMALS: Final = 6
U64_MAX: Final = 2**64 - 1

_DECIMALS_MAX: Final = 255  # the mint's field is one byte
_TEXT_CHARS_MAX: Final = 2 * _DECIMALS_MAX
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?\Z", re.ASCII)


class AmountError(X402Error, ValueError):
    """The text or the number is no token amount."""


def to_atomic_units(text: str, decimals: int = USDC_DECIMALS) -> int:
    """Atomic units of an amount such as `0.10`: digits, and a fraction of up to `decimals` places.

    Raises:
        AmountError: any other text, or more than 2^64-1 atomic units.
    """
    _check_decimals(decimals)
    found = _AMOUNT.match(text) if len(text) <= _TEXT_CHARS_MAX else None
    if found is None:
        raise AmountError("an amount is digits with at most one point, such as 0.10")
    whole, fraction = found[1], found[2] or ""
    if len(fraction) > decimals:
        raise AmountError(f"an amount has at most {decimals} decimal places")
    units = int(whole + fraction.ljust(decimals, "0"))
    if units > U64_MAX:
        raise AmountError(f"an amount is at most {U64_MAX} atomic units")
    return units


def from_atomic_units(amount: int, decimals: int = USDC_DECIMALS) -> str:
    """The shortest text that `to_atomic_units` reads as `amount`.

    Raises:
        AmountError: negative, or more than 2^64-1.
    """
    _check_decimals(decimals)
    if not 0 <= amount <= U64_MAX:
        raise AmountError(f"atomic units are between 0 and {U64_MAX}")
    whole, fraction = divmod(amount, 10**decimals)
    places = str(fraction).rjust(decimals, "0").rstrip("0")
    return f"{whole}.{places}" if places else str(whole)


def _check_decimals(decimals: int) -> None:
    if not 0 <= decimals <= _DECIMALS_MAX:
        raise AmountError(f"decimals are between 0 and {_DECIMALS_MAX}")
