"""Units as types, and the strict parsers that make them.

Slots, block heights and seconds are different types and are never compared. Money is an integer
number of atomic units (USDC: 1 atomic unit = 0.000001 USDC).
"""

import re
from typing import Final, NewType

from service.domain.errors import InvalidRequest
from service.domain.limits import U64_MAX
from session_ledger.encoding import Base58Error, base58_decode

AtomicUsdc = NewType("AtomicUsdc", int)
Slot = NewType("Slot", int)
BlockHeight = NewType("BlockHeight", int)
UnixMillis = NewType("UnixMillis", int)
StreamPosition = NewType("StreamPosition", int)
"""1-based index of an event in its stream; 0 is the empty stream."""
Lamports = NewType("Lamports", int)
Pubkey = NewType("Pubkey", str)
"""Base58 text of 32 bytes, checked."""

_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,19})\Z", re.ASCII)
_PUBKEY_CHARS_MAX: Final = 44
_PUBKEY_BYTES: Final = 32


def parse_amount(value: object, field: str) -> AtomicUsdc:
    """A decimal string of atomic units, 0 to 2^64-1.

    Raises:
        InvalidRequest: not such a string (JSON numbers are refused: they lose digits).
    """
    if isinstance(value, str) and _AMOUNT.match(value) and (amount := int(value)) <= U64_MAX:
        return AtomicUsdc(amount)
    raise InvalidRequest(f"{field} must be a string of digits, at most 2^64-1, without a leading 0")


def parse_pubkey(value: object, field: str) -> Pubkey:
    """A base58 Solana address of exactly 32 bytes.

    Raises:
        InvalidRequest: not a string, not base58, or another length.
    """
    if isinstance(value, str) and len(value) <= _PUBKEY_CHARS_MAX:
        try:
            if len(base58_decode(value)) == _PUBKEY_BYTES:
                return Pubkey(value)
        except Base58Error:
            pass
    raise InvalidRequest(f"{field} must be a base58 Solana address (32 bytes)")
