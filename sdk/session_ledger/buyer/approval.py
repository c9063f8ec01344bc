"""The one transaction that an owner signs unseen: an approval of so much, for one delegate.

Spec: Solana versioned transactions, version 0; SPL Token, `ApproveChecked`.
"""

from dataclasses import dataclass
from typing import Final

from session_ledger.buyer.errors import ApprovalRefused
from session_ledger.encoding import base58_encode

_TOKEN_PROGRAM: Final = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"  # noqa: S105  an address
_APPROVE_CHECKED: Final = 13
_VERSION_0: Final = 0x80
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 32
_AMOUNT_BYTES: Final = 8
_SHORT_MORE: Final = 0x80


@dataclass(frozen=True, slots=True)
class Approval:
    """A transaction that does nothing but let `delegate` take `amount` out of one account."""

    message: bytes
    signatures: tuple[bytes, ...]
    signers: tuple[str, ...]
    mint: str
    delegate: str
    owner: str
    amount: int

    def signed(self, signature: bytes) -> bytes:
        """The wire bytes with the owner's signature in its place."""
        place = self.signers.index(self.owner)
        all_of = [*self.signatures[:place], signature, *self.signatures[place + 1 :]]
        return bytes([len(all_of)]) + b"".join(all_of) + self.message


def read_approval(wire: bytes) -> Approval:
    """What the transaction says.

    Raises:
        ApprovalRefused: it is anything else than one approval that its owner signs.
    """
    try:
        return _approval(wire)
    except (IndexError, ValueError):
        raise ApprovalRefused("what the ledger gives to sign is no approval") from None


def _approval(wire: bytes) -> Approval:
    whole = _Reader(wire)
    signatures = whole.many(_SIGNATURE_BYTES)
    message = whole.rest()
    read = _Reader(message)
    version, signer_count, _, _ = read.take(4)
    keys = [base58_encode(key) for key in read.many(_KEY_BYTES)]
    read.take(_KEY_BYTES)  # the blockhash
    instructions, program = read.short(), keys[read.take(1)[0]]
    _, mint, delegate, owner = [keys[place] for place in read.take(read.short())]
    data = read.take(read.short())
    tables = read.short()
    amount = int.from_bytes(data[1 : 1 + _AMOUNT_BYTES], "little")
    exact = (
        version == _VERSION_0
        and signer_count == len(signatures)
        and (instructions, program, tables) == (1, _TOKEN_PROGRAM, 0)
        and (data[0], len(data)) == (_APPROVE_CHECKED, _AMOUNT_BYTES + 2)
        and owner in keys[:signer_count]
        and not read.rest()
    )
    if not exact:
        raise ValueError
    signers = tuple(keys[:signer_count])
    return Approval(message, signatures, signers, mint, delegate, owner, amount)


class _Reader:
    """Takes bytes from the front; raises ValueError where there are too few."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, count: int) -> bytes:
        found = self._raw[self._at : self._at + count]
        if len(found) != count:
            raise ValueError
        self._at += count
        return found

    def short(self) -> int:
        """A length; all that fits into a transaction here is below 128, which is one byte."""
        length = self.take(1)[0]
        if length >= _SHORT_MORE:
            raise ValueError
        return length

    def many(self, size: int) -> tuple[bytes, ...]:
        return tuple(self.take(size) for _ in range(self.short()))

    def rest(self) -> bytes:
        return self._raw[self._at :]
