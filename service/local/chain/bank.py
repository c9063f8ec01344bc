"""The chain itself: LiteSVM, with what a cluster has around its virtual machine.

LiteSVM executes transactions with the real programs, but knows one current blockhash, no slots
that pass and no commitment levels. Kept around it here: the window of recent blockhashes, slots
that advance with time, accounts as they were at the confirmed and finalized slot, and the ledger
of landed transactions that refuses a second one with the same signature.

A bank is not thread-safe: the server calls it from its one event loop.
"""

import json
import secrets
import sqlite3
import time
from dataclasses import dataclass
from typing import Final

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.transaction import VersionedTransaction

from service.local.chain.genesis import (
    FIRST_SLOT,
    SLOTS_PER_EPOCH,
    genesis_accounts,
    genesis_hash,
)
from service.local.chain.instructions import MEMO_PROGRAM_ID, MEMO_V4_PROGRAM_ID
from service.local.chain.protocol import Json
from service.local.chain.settings import LocalChainError, LocalChainSettings
from service.local.chain.slots import Level, RecentBlockhashes, SlotClock, height_of
from service.local.chain.store import Store, StoredTransaction
from service.local.chain.transactions import (
    AccountKeys,
    Execution,
    account_keys,
    read_execution,
    transaction_meta,
)

SOLANA_CORE: Final = "3.1.0"
"""The validator release whose RPC shapes are followed."""

SLOT_RESERVE: Final = 32
"""Slots written ahead of time, so that most slots cost no write. A killed chain skips no more."""

NO_ACCOUNT: Final = Account(0, b"", SYSTEM_PROGRAM_ID)
"""What stands for a missing account where the machine or the wire wants one."""


@dataclass(frozen=True, slots=True)
class View:
    """The chain as one commitment level shows it at one moment."""

    bank: "Bank"
    slot: int

    @property
    def height(self) -> int:
        """The block height of the level's slot."""
        return height_of(self.slot)

    def account(self, address: Pubkey) -> Account | None:
        """The account as it was at the end of this slot."""
        return self.bank.account_at(address, self.slot)

    def owned_by(self, program: Pubkey) -> list[tuple[Pubkey, Account]]:
        """Every account that `program` owned at the end of this slot."""
        return self.bank.owned_at(program, self.slot)

    def in_context(self, value: Json) -> Json:
        """`value` with the slot that it was read at, as most answers have it."""
        return {"context": {"apiVersion": SOLANA_CORE, "slot": self.slot}, "value": value}


class Bank:
    """One local chain."""

    def __init__(self, settings: LocalChainSettings) -> None:
        """Opens the chain in `settings.data_dir`, or makes one.

        Raises:
            LocalChainError: the directory belongs to another network or process, or a program
                file cannot be read.
        """
        self.settings = settings
        self.genesis_hash = genesis_hash(settings.network)
        self.store = Store(settings.data_dir)
        try:
            self._open()
        except BaseException:
            self.store.close()
            raise

    def _open(self) -> None:
        self._adopt_network()
        self._svm = (
            LiteSVM().with_sigverify(False).with_blockhash_check(False).with_transaction_history(0)
        )
        self._undo: dict[int, dict[Pubkey, Account | None]] = {}
        self._load_programs()
        self._load_accounts()
        # The genesis slot is finalized from the start, so every level always has a slot.
        first = FIRST_SLOT + self.settings.finalized_depth + 1
        self._slot = max(first, int(self.store.fact("slot") or 0) + 1)
        self._reserved = self._slot
        self.clock = SlotClock(slot=self._slot, slot_seconds=self.settings.slot_seconds)
        self.blockhashes = RecentBlockhashes(bytes.fromhex(self.store.fact("salt") or ""))
        self._enter(self._slot)

    def _adopt_network(self) -> None:
        known = self.store.fact("genesis_hash")
        if known is None:
            self.store.put_fact("salt", secrets.token_hex(16))
            self.store.put_fact("genesis_hash", self.genesis_hash)
        elif known != self.genesis_hash:
            raise LocalChainError(
                f"the data directory holds a chain with genesis hash {known}, not that of"
                f" {self.settings.network}; use another directory"
            )

    def _load_programs(self) -> None:
        # LiteSVM has the current memo program under its old address only, and the JavaScript
        # clients of today call it under the new one. The code does not look at its own address.
        memo = self._svm.get_account(MEMO_PROGRAM_ID)
        if memo is not None and self._svm.get_account(MEMO_V4_PROGRAM_ID) is None:
            self._svm.add_program(MEMO_V4_PROGRAM_ID, memo.data)
        for program, path in self.settings.programs.items():
            try:
                self._svm.add_program_from_file(program, path)
            except (OSError, ValueError) as error:
                raise LocalChainError(
                    f"cannot load program {program} from {path}: {error}"
                ) from error

    def _load_accounts(self) -> None:
        accounts: dict[Pubkey, Account | None] = {
            **genesis_accounts(),
            **dict(self.store.accounts()),
        }
        # A program's account is only accepted once the account with its code is there.
        for address, account in sorted(
            accounts.items(), key=lambda item: item[1] is not None and item[1].executable
        ):
            self._svm.set_account(address, account or NO_ACCOUNT)
        for slot, address, account in self.store.undo():
            self._undo.setdefault(slot, {})[address] = account

    def close(self) -> None:
        """Remembers the slot and closes the file."""
        self.store.put_fact("slot", str(self.tick()))
        self.store.close()

    # Time

    def tick(self) -> int:
        """Moves to the slot that the clock shows; gives that slot. Everything below calls it."""
        slot = self.clock.slot()
        if slot != self._slot:
            self._enter(slot)
        return slot

    def _enter(self, slot: int) -> None:
        if slot >= self._reserved:
            self._reserved = slot + SLOT_RESERVE
            self.store.put_fact("slot", str(self._reserved))
        self._slot = slot
        self.blockhashes.advance(height_of(slot))
        epoch = slot // SLOTS_PER_EPOCH
        now = int(time.time())
        self._svm.set_clock(Clock(slot, now, epoch, epoch + 1, now))
        self._svm.set_slot_hashes(
            [(past, self.blockhashes.at(height_of(past))) for past in range(slot - 1, slot - 9, -1)]
        )
        for past in [past for past in self._undo if past <= self.level_slot(Level.FINALIZED)]:
            del self._undo[past]

    def level_slot(self, level: Level) -> int:
        """The newest slot that `level` shows."""
        match level:
            case Level.PROCESSED:
                return self._slot
            case Level.CONFIRMED:
                return self._slot - self.settings.confirmed_depth
            case Level.FINALIZED:
                return self._slot - self.settings.finalized_depth

    def view(self, level: Level) -> View:
        """The chain at `level`, now."""
        self.tick()
        return View(self, self.level_slot(level))

    def level_of(self, slot: int) -> Level:
        """The strongest level that shows `slot`."""
        for level in (Level.FINALIZED, Level.CONFIRMED):
            if slot <= self.level_slot(level):
                return level
        return Level.PROCESSED

    # Accounts

    def account_at(self, address: Pubkey, slot: int) -> Account | None:
        """The account as it was at the end of `slot`, which is finalized or newer."""
        for later, before in self._undo.items():  # oldest first
            if later > slot and address in before:
                return before[address]
        return self._svm.get_account(address)

    def owned_at(self, program: Pubkey, slot: int) -> list[tuple[Pubkey, Account]]:
        """The accounts that `program` owned at the end of `slot`, in no particular order."""
        addresses = {address for address, _ in self._svm.get_program_accounts(program)}
        addresses.update(*(before for later, before in self._undo.items() if later > slot))
        found = ((address, self.account_at(address, slot)) for address in addresses)
        return [(key, account) for key, account in found if account and account.owner == program]

    def set_account(self, address: Pubkey, account: Account) -> None:
        """Overwrites an account outside of any transaction; every level shows it at once.

        Raises:
            ValueError: the virtual machine refuses it: a program that is none, a broken sysvar.
        """
        self.tick()
        try:
            self._svm.set_account(address, account)
        except Exception as error:  # LiteSVM does not export the class that it raises here
            raise ValueError(str(error)) from error
        self.store.put_account(address, account if account.lamports else None)
        for before in self._undo.values():
            before.pop(address, None)

    def rent_exempt_minimum(self, data_bytes: int) -> int:
        """Lamports that an account with `data_bytes` of data must hold."""
        return self._svm.minimum_balance_for_rent_exemption(data_bytes)

    # Transactions

    def refusal(
        self, transaction: VersionedTransaction, *, at_height: int, check_blockhash: bool = True
    ) -> Json:
        """Why a block at `at_height` would not even run the transaction; None when it would."""
        if check_blockhash and not self.blockhashes.usable(
            transaction.message.recent_blockhash, at_height
        ):
            return "BlockhashNotFound"
        if self.store.transaction(transaction.signatures[0]) is not None:
            return "AlreadyProcessed"
        return None

    def simulate(self, transaction: VersionedTransaction) -> Execution:
        """Runs the transaction on the newest state and changes nothing."""
        self.tick()
        return read_execution(self._svm.simulate_transaction(transaction))

    def send(self, transaction: VersionedTransaction) -> Json:
        """Executes the transaction in the current block; gives its error, if any.

        A transaction that a leader would not put into a block leaves no trace. One that fails
        while it runs lands, pays its fee, and is recorded with its error.
        Durable (against kill -9) when this returns.
        """
        slot = self.tick()
        if not all(transaction.verify_with_results()):
            return "SignatureFailure"
        refused = self.refusal(transaction, at_height=height_of(slot))
        if refused is not None:
            return refused
        keys = account_keys(transaction, self._svm.get_account)
        before = {key: self._svm.get_account(key) for key in keys.all}
        execution = read_execution(self._svm.send_transaction(transaction))
        if execution.ran:
            after = {key: self._svm.get_account(key) for key in keys.all}
            self._record(transaction, execution, keys, before, after)
        return execution.err

    def _record(
        self,
        transaction: VersionedTransaction,
        execution: Execution,
        keys: AccountKeys,
        before: dict[Pubkey, Account | None],
        after: dict[Pubkey, Account | None],
    ) -> None:
        changed = {key: state for key, state in before.items() if state != after[key]}
        read = self._svm.get_account
        # Mints of token accounts need not be among the keys; a transaction cannot change those.
        meta = transaction_meta(
            execution, keys, lambda key: before[key] if key in before else read(key), read
        )
        stored = StoredTransaction(
            slot=self._slot,
            signature=transaction.signatures[0],
            wire=bytes(transaction),
            err=None if execution.err is None else json.dumps(execution.err),
            meta=json.dumps(meta),
            block_time=int(time.time()),
        )
        try:
            self.store.record(
                stored,
                mentions=keys.all,
                before=changed,
                after={key: after[key] for key in changed},
                finalized_slot=self.level_slot(Level.FINALIZED),
            )
        except sqlite3.Error:  # never show what a restart would forget
            self._restore(changed)
            raise
        undo = self._undo.setdefault(self._slot, {})
        for key, state in changed.items():
            undo.setdefault(key, state)

    def drop_fork(self, slots: int) -> list[Signature]:
        """Undoes every transaction of the last `slots` slots, as if their fork had been dropped.

        Gives their signatures. Finalized slots stay.
        """
        first = max(self.tick() - slots, self.level_slot(Level.FINALIZED)) + 1
        slots_undone = [slot for slot in self._undo if slot >= first]
        restored: dict[Pubkey, Account | None] = {}
        for slot in slots_undone:
            restored = {**self._undo[slot], **restored}  # the oldest state wins
        dropped = self.store.drop_since(first, restored)
        self._restore(restored)
        for slot in slots_undone:
            del self._undo[slot]
        return dropped

    def _restore(self, accounts: dict[Pubkey, Account | None]) -> None:
        for address, account in accounts.items():
            self._svm.set_account(address, account or NO_ACCOUNT)

    def blockhash(self, slot: int) -> Hash:
        """The blockhash of the block in `slot`."""
        return self.blockhashes.at(height_of(slot))
