"""Payments to a naive server and to ours: each defect of the published test server, once.

A `Scene` is one transaction told twice: as our chain port shows it, and as the naive server reads
it. `naive` judges by the first top-level transfer of the classic token program, as that server
does, and believes everything else. Spec: x402test, server verification as implemented.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from fakes import TOKEN_PROGRAM

from service.domain.observed import ObservedTransaction, TokenBalance, TokenTransfer
from service.domain.units import Slot
from session_ledger.encoding import base58_encode
from session_ledger.x402.direct import PaymentRequirements

TOKEN_2022: Final = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"
HELD: Final = 10**12
"""What every token account holds before a scene."""
LANDED: Final = 1_700_000_000
"""When scenes land, in Unix seconds."""


def key(name: str) -> str:
    """An address that follows from its name."""
    return base58_encode(sha256(b"x402 test " + name.encode()).digest())


@dataclass(frozen=True, slots=True)
class Move:
    """One transfer. `tag` 3 names no mint; `inner` is the instruction of a called program."""

    source: str
    destination: str
    amount: int
    mint: str
    authority: str
    tag: int = 12
    inner: bool = False
    program: str = TOKEN_PROGRAM
    fee: int = 0


@dataclass
class Scene:
    """A transaction. `owners` are those inside it, `owners_now` those that an RPC tells later."""

    moves: list[Move]
    owners: dict[str, str]
    owners_now: dict[str, str] = field(default_factory=dict[str, str])
    looked_up: set[str] = field(default_factory=set[str])
    memos: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    error: object | None = None
    block_time: int | None = LANDED

    def observed(self) -> ObservedTransaction:
        held: dict[tuple[str, str, str], int] = {}
        for move in self.moves:
            source = (move.source, move.mint, move.program)
            destination = (move.destination, move.mint, move.program)
            if self.error is None:
                held[source] = held.get(source, HELD) - move.amount
                held[destination] = held.get(destination, HELD) + move.amount - move.fee
        return ObservedTransaction(
            signature=signature("scene"),
            slot=Slot(500),
            block_time=self.block_time,
            error=self.error,
            signers=self.signers,
            accounts=(*self.signers, *self.owners, *self.accounts),
            balances=tuple(
                TokenBalance(account, self.owners[account], mint, program, HELD, after)
                for (account, mint, program), after in held.items()
            ),
            transfers=tuple(
                TokenTransfer(move.source, move.destination, move.authority, move.amount)
                for move in self.moves
            ),
            memos=self.memos,
            raw_hash=bytes(32),
        )


def signature(name: str) -> str:
    """A signature that follows from its name."""
    return base58_encode(sha256(name.encode()).digest() * 2)


def naive(scene: Scene, required: PaymentRequirements) -> str | None:  # noqa: PLR0911  by check
    """The naive server's error; `None` when it serves."""
    if scene.error is not None:
        return f"Transaction failed: {scene.error}"
    first = next(
        (m for m in scene.moves if not m.inner and m.program == TOKEN_PROGRAM and m.tag in (3, 12)),
        None,
    )
    if first is None:
        return "No token transfer instruction found in transaction"
    if {first.source, first.destination} & scene.looked_up:
        return "Verification error: Cannot read properties of undefined (reading 'toBase58')"
    owner = {**scene.owners, **scene.owners_now}.get(first.destination)
    if not owner:
        return "Destination owner not found"
    if owner != required.pay_to:
        return f"Wrong recipient: expected {required.pay_to}, got {owner}"
    if first.amount < required.max_amount_required:
        return f"Insufficient amount: expected {required.max_amount_required}, got {first.amount}"
    if first.tag == 12 and first.mint != required.asset:
        return f"Wrong token: expected {required.asset}, got {first.mint}"
    return None


def naive_schema(header: dict[str, Any], required: dict[str, Any]) -> bool:
    """Whether the naive server's schemas take the addresses."""
    keys = (required["payTo"], required["asset"], header["payload"]["from"])
    return all(len(value) == 44 for value in keys)


def naive_atomic_units(text: str) -> str:
    """The naive server's price, as its JavaScript computes and then prints it."""
    return repr(float(text) * 1e6)
