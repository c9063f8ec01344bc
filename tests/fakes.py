"""Stand-ins for the log, the clock and a cluster, small enough to be read at once.

`FakeChain` passes the same contract suite as the real adapter over the local chain.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from typing import Any, Literal

from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import ASSOCIATED_TOKEN_PROGRAM_ID, TOKEN_PROGRAM_ID

from service.domain.errors import SessionNotFound, WrongPosition
from service.domain.events import SessionEvent
from service.domain.log import GENESIS_HASH, EventRow, chain, decode
from service.domain.observed import ObservedTransaction, TokenBalance, TokenTransfer
from service.domain.onchain import (
    AccountsReading,
    ChainHeights,
    Commitment,
    FinalizedTransaction,
    LatestBlockhash,
    Mint,
    RawAccount,
    SignatureStatus,
    Simulation,
    TokenAccount,
    message_of,
)
from service.domain.payment import fold as fold_payment
from service.domain.session import Session, fold
from service.domain.units import AtomicUsdc, BlockHeight, Lamports, Slot, StreamPosition, UnixMillis
from session_ledger.encoding import base58_decode, base58_encode

TOKEN_PROGRAM = str(TOKEN_PROGRAM_ID)
WINDOW = 150
FINALIZED_DEPTH = 32
DEPTHS: dict[Commitment, int] = {"processed": 0, "confirmed": 2, "finalized": FINALIZED_DEPTH}


class FakeClock:
    """A time of day that tests set."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self.time = UnixMillis(now)

    def now(self) -> UnixMillis:
        return self.time

    def forward_to(self, then: int) -> None:
        self.time = UnixMillis(max(self.time, then))


class MemoryLedger:
    """A log in memory, with real rows: canonical bytes, expected positions, a hash chain."""

    def __init__(self) -> None:
        self.rows: dict[str, list[EventRow]] = {}
        self._folded: dict[str, tuple[int, Any]] = {}

    def events(self, stream_id: str) -> list[SessionEvent]:
        return [decode(r.type, r.schema_version, r.payload) for r in self.rows[stream_id]]

    def append(self, stream_id: str, expected: int, events: Sequence[SessionEvent]) -> None:
        rows = self.rows.setdefault(stream_id, [])
        if len(rows) != expected:
            raise WrongPosition(f"{stream_id} stands at {len(rows)}, not {expected}")
        head = rows[-1].hash if rows else GENESIS_HASH
        rows.extend(chain(stream_id, StreamPosition(expected), head, events))

    async def session(self, stream_id: str) -> tuple[Session, StreamPosition] | None:
        session = await self.settling(stream_id)
        return None if session is None else (session, StreamPosition(len(self.rows[stream_id])))

    async def settling(self, stream_id: str) -> Any:
        """The state of the stored rows; those read before are not read again."""
        await asyncio.sleep(0)
        if stream_id not in self.rows:
            return None
        rows = self.rows[stream_id]
        known, state = self._folded.get(stream_id, (0, None))
        new = [decode(row.type, row.schema_version, row.payload) for row in rows[known:]]
        state = self._fold(stream_id)(state, new)
        self._folded[stream_id] = len(rows), state
        return state

    async def record(self, stream_id: str, decide: Callable[[Any], Sequence[Any]]) -> Any:
        for _ in range(10):
            found = await self.settling(stream_id)
            if found is None:
                raise SessionNotFound(stream_id)
            at = len(self.rows[stream_id])
            new = decide(found)
            await asyncio.sleep(0)
            try:
                self.append(stream_id, at, new)
            except WrongPosition:
                continue
            after = self._fold(stream_id)(found, new)
            assert after is not None
            return after
        raise WrongPosition("lost the race too often")

    @staticmethod
    def _fold(stream_id: str) -> Callable[[Any, Sequence[Any]], Any]:
        return fold_payment if stream_id.startswith("payment/") else fold


@dataclass(frozen=True, slots=True)
class Landed:
    """A transaction in a block of the present fork; a bare name as `error` never gets there."""

    height: int
    signature: str
    raw: bytes
    error: object | None
    changes: dict[str, int]
    created: TokenAccount | None = None


class FakeChain:
    """A cluster whose time stands until `advance`. It executes settlement transactions only."""

    name = "fake"

    def __init__(self, genesis_hash: str) -> None:
        self._genesis_hash = genesis_hash
        self.tip = 1_000
        self.written: dict[str, tuple[int, TokenAccount]] = {}
        self.mints: dict[str, Mint] = {}
        self.sol: dict[str, int] = {}
        self.waiting: list[bytes] = []
        self.landed: list[Landed] = []

    def advance(self, blocks: int) -> None:
        for _ in range(blocks):
            self.tip += 1
            waiting, self.waiting = self.waiting, []
            for outcome in map(self._execute, waiting):
                if not isinstance(outcome.error, str):
                    self.landed.append(outcome)

    def write(self, account: TokenAccount) -> None:
        """Make the account be so from now on, at every level."""
        self.written[account.address] = (self.tip, account)

    def drop_fork(self, blocks: int) -> None:
        """The last `blocks` blocks lose; what was in them is forgotten, not sent again."""
        kept = max(self.tip - blocks, self.tip - FINALIZED_DEPTH)
        self.landed = [item for item in self.landed if item.height <= kept]

    def height_of(self, raw: bytes) -> int:
        """The height that the transaction's blockhash names."""
        wanted = str(VersionedTransaction.from_bytes(raw).message.recent_blockhash)
        return next(height for height in range(self.tip, 0, -1) if _blockhash(height) == wanted)

    async def genesis_hash(self) -> str:
        return self._genesis_hash

    async def latest_blockhash(self) -> LatestBlockhash:
        last_valid = BlockHeight(self.tip + WINDOW)
        tip = BlockHeight(self.tip)
        return LatestBlockhash(_blockhash(self.tip), last_valid, tip, self._slot(), Slot(0))

    async def token_account(self, address: str, commitment: Commitment) -> TokenAccount | None:
        return self._view(address, DEPTHS[commitment])

    async def accounts(self, addresses: Sequence[str], commitment: Commitment) -> AccountsReading:
        """Token accounts only, as their 165 bytes."""
        views = [self._view(address, DEPTHS[commitment]) for address in addresses]
        return AccountsReading(self._slot(), tuple(view and _raw(view) for view in views))

    async def mint(self, address: str) -> Mint | None:
        return self.mints.get(address)

    async def lamports(self, address: str) -> Lamports:
        return Lamports(self.sol.get(address, 0))

    async def simulate(
        self,
        transaction: bytes,
        *,
        complete: bool = True,
    ) -> Simulation:
        """It verifies no signature and calls no program from another."""
        return Simulation(self._execute(transaction).error, (), 700, None if complete else ())

    async def send(self, transaction: bytes) -> str:
        self.waiting.append(transaction)
        return "accepted"

    async def signature_status(self, signature: str) -> SignatureStatus:
        for item in self.landed:
            if item.signature == signature:
                depth = self.tip - item.height
                level = max((c for c in DEPTHS if DEPTHS[c] <= depth), key=DEPTHS.__getitem__)
                return SignatureStatus(level, _slot(item.height), item.error, self._slot())
        return SignatureStatus(None, None, None, self._slot())

    async def heights(self) -> ChainHeights:
        rooted = self.tip - FINALIZED_DEPTH
        return ChainHeights(BlockHeight(self.tip), BlockHeight(rooted), _slot(rooted), Slot(0))

    async def finalized_transaction(self, signature: str) -> FinalizedTransaction | None:
        for item in self.landed:
            if item.signature == signature and self.tip - item.height >= FINALIZED_DEPTH:
                message = VersionedTransaction.from_bytes(item.raw).message
                memo = bytes(message.instructions[-1].data).decode()
                return FinalizedTransaction(
                    signature=signature,
                    slot=_slot(item.height),
                    error=item.error,
                    token_changes=item.changes,
                    memos=(memo,),
                    raw_hash=sha256(item.raw).digest(),
                    message_hash=sha256(message_of(item.raw)).digest(),
                )
        return None

    async def transaction(
        self, signature: str, commitment: Literal["confirmed", "finalized"]
    ) -> ObservedTransaction | None:
        for item in self.landed:
            if item.signature == signature and self.tip - item.height >= DEPTHS[commitment]:
                return self._observed(item)
        return None

    def _observed(self, item: Landed) -> ObservedTransaction:
        message = VersionedTransaction.from_bytes(item.raw).message
        keys = [str(key) for key in message.account_keys]
        steps = [(keys[s.program_id_index], s) for s in message.instructions]
        moves = [
            TokenTransfer(
                source=keys[s.accounts[0]],
                destination=keys[s.accounts[2]],
                authority=keys[s.accounts[3]],
                amount=int.from_bytes(bytes(s.data[1:9]), "little"),
            )
            for program, s in steps
            if program == TOKEN_PROGRAM
        ]
        depth = self.tip - item.height
        balances: list[TokenBalance] = []
        for move in moves:
            for address in (move.source, move.destination):
                before, after = self._view(address, depth + 1), self._view(address, depth)
                known = after or before
                if known is not None:
                    held = (before.amount if before else 0, after.amount if after else 0)
                    balance = TokenBalance(address, known.owner, known.mint, known.program, *held)
                    balances.append(balance)
        return ObservedTransaction(
            signature=item.signature,
            slot=_slot(item.height),
            block_time=block_time(item.height),
            error=item.error,
            signers=tuple(keys[: message.header.num_required_signatures]),
            accounts=tuple(keys),
            balances=tuple(balances),
            transfers=tuple(moves),
            memos=tuple(bytes(s.data).decode() for p, s in steps if p == str(MEMO_PROGRAM_ID)),
            raw_hash=sha256(item.raw).digest(),
        )

    def _slot(self) -> Slot:
        return _slot(self.tip)

    def _view(self, address: str, depth: int) -> TokenAccount | None:
        since, account = self.written.get(address, (0, None))
        for item in self.landed:
            if not since < item.height <= self.tip - depth:
                continue
            if item.created and item.created.address == address:
                account = account or item.created
            if account and (change := item.changes.get(address)):
                left = AtomicUsdc(account.delegated_amount + min(change, 0))
                account = replace(
                    account,
                    amount=AtomicUsdc(account.amount + change),
                    delegated_amount=left,
                    delegate=account.delegate if left else None,
                )
        return account and replace(account, slot=self._slot())

    def _execute(self, raw: bytes) -> Landed:
        transaction = VersionedTransaction.from_bytes(raw)
        message = transaction.message
        outcome = Landed(self.tip, str(transaction.signatures[0]), raw, None, {})
        keys = [str(key) for key in message.account_keys]
        window = {_blockhash(height) for height in range(self.tip - WINDOW, self.tip + 1)}
        if str(message.recent_blockhash) not in window:
            return replace(outcome, error="BlockhashNotFound")
        if any(item.signature == outcome.signature for item in self.landed):
            return replace(outcome, error="AlreadyProcessed")
        if not self.sol.get(keys[0]):
            return replace(outcome, error="AccountNotFound")
        created: TokenAccount | None = None
        for index, step in enumerate(message.instructions):
            accounts = [keys[i] for i in step.accounts]
            if keys[step.program_id_index] == str(ASSOCIATED_TOKEN_PROGRAM_ID):
                created = empty_account(accounts[1], owner=accounts[2], mint=accounts[3])
            if keys[step.program_id_index] == TOKEN_PROGRAM:
                amount = int.from_bytes(bytes(step.data[1:9]), "little")
                error = self._transfer_error(accounts, amount, created)
                if error is not None:
                    return replace(outcome, error={"InstructionError": [index, error]})
                changes = {accounts[0]: -amount, accounts[2]: amount}
                outcome = replace(outcome, changes=changes, created=created)
        return outcome

    def _transfer_error(
        self, accounts: list[str], amount: int, created: TokenAccount | None
    ) -> object | None:
        source, payee = self._view(accounts[0], 0), self._view(accounts[2], 0) or created
        if source is None or payee is None:
            return "InvalidAccountData"
        if source.frozen or payee.frozen:
            return {"Custom": 17}
        if source.owner == accounts[3]:
            return {"Custom": 1} if source.amount < amount else None
        if source.delegate != accounts[3]:
            return {"Custom": 4}
        return {"Custom": 1} if min(source.amount, source.delegated_amount) < amount else None


def empty_account(address: str, *, owner: str, mint: str) -> TokenAccount:
    """A token account as it was just created."""
    return TokenAccount(
        address=address,
        mint=mint,
        owner=owner,
        program=TOKEN_PROGRAM,
        amount=AtomicUsdc(0),
        delegate=None,
        delegated_amount=AtomicUsdc(0),
        frozen=False,
        slot=Slot(0),
    )


def _raw(account: TokenAccount) -> RawAccount:
    """The account's bytes. Spec: spl-token `state.rs`."""
    delegate = b"" if account.delegate is None else base58_decode(account.delegate)
    data = struct.pack(
        "<32s32sQ4s32sB12xQ36x",
        base58_decode(account.mint),
        base58_decode(account.owner),
        account.amount,
        struct.pack("<I", bool(delegate)),
        delegate,
        2 if account.frozen else 1,
        account.delegated_amount,
    )
    return RawAccount(account.address, account.program, Lamports(2_039_280), data)


@cache
def _blockhash(height: int) -> str:
    return base58_encode(sha256(b"block %d" % height).digest())


def block_time(height: int) -> int:
    """When the fake chain made a block, in Unix seconds: one each second."""
    return 1_700_000_000 - 1_000 + height


def _slot(height: int) -> Slot:
    """A slot is never a height: some slots have no block."""
    return Slot(height + 500)
