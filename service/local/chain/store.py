"""The local chain on disk: one SQLite file that survives kill -9.

Everything of one transaction is one SQLite transaction. The journal is a write-ahead log with
`synchronous = NORMAL`: a killed process loses nothing that was acknowledged; a power cut may lose
the newest writes, which a development chain can afford.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from solders.account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature

from service.local.chain.settings import LocalChainError

FILE_NAME: Final = "chain.sqlite3"
_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- NULL: the account was deleted, also when genesis has it
CREATE TABLE accounts (address BLOB PRIMARY KEY, account BLOB);
-- an account as it was before a slot that is not finalized yet; NULL: it did not exist
CREATE TABLE undo (
    slot INTEGER, address BLOB, account BLOB, PRIMARY KEY (slot, address)
) WITHOUT ROWID;
CREATE TABLE transactions (
    slot INTEGER NOT NULL, position INTEGER NOT NULL, signature BLOB NOT NULL UNIQUE,
    wire BLOB NOT NULL, err TEXT, meta TEXT NOT NULL, block_time INTEGER NOT NULL,
    PRIMARY KEY (slot, position)
);
CREATE TABLE mentions (
    address BLOB, slot INTEGER, position INTEGER, PRIMARY KEY (address, slot, position)
) WITHOUT ROWID;
PRAGMA user_version = {_SCHEMA_VERSION};
"""

Accounts = Mapping[Pubkey, Account | None]
"""Accounts by address; None where there is no account."""


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A landed transaction. `err` and `meta` are JSON texts; `block_time` is in Unix seconds."""

    slot: int
    signature: Signature
    wire: bytes
    err: str | None
    meta: str
    block_time: int
    position: int = 0


_COLUMNS: Final = "slot, signature, wire, err, meta, block_time, position"


class Store:
    """One chain's file, held by one process at a time. Use it from the thread that opened it."""

    def __init__(self, data_dir: Path | None) -> None:
        """Opens or creates the file in `data_dir`; None keeps everything in memory.

        Raises:
            LocalChainError: another process has it open, or it is not a chain of this version.
        """
        if data_dir is not None:
            data_dir.mkdir(parents=True, exist_ok=True)
        place = ":memory:" if data_dir is None else str(data_dir / FILE_NAME)
        self._db = sqlite3.connect(place, timeout=1)
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise LocalChainError(f"cannot open the local chain in {place}: {error}") from error
        except LocalChainError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise LocalChainError(f"the local chain's file has the unknown version {version}")
        self.put_fact("opened", "yes")  # takes the exclusive lock now, not at the first transaction

    def close(self) -> None:
        """Closes the file; the object is of no use afterwards."""
        self._db.close()

    def fact(self, name: str) -> str | None:
        """A named value of the chain as a whole."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_fact(self, name: str, value: str) -> None:
        """Writes a named value."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def accounts(self) -> Iterator[tuple[Pubkey, Account | None]]:
        """The newest state of every account that ever changed."""
        for address, account in self._db.execute("SELECT address, account FROM accounts"):
            yield Pubkey(address), _unpack(account)

    def undo(self) -> Iterator[tuple[int, Pubkey, Account | None]]:
        """(slot, address, state before that slot), oldest slot first."""
        rows = self._db.execute("SELECT slot, address, account FROM undo ORDER BY slot")
        for slot, address, account in rows:
            yield slot, Pubkey(address), _unpack(account)

    def put_account(self, address: Pubkey, account: Account | None) -> None:
        """Writes an account and forgets what it was: its state holds at every level."""
        with self._db:
            self._write_accounts({address: account})
            self._db.execute("DELETE FROM undo WHERE address = ?", (bytes(address),))

    def record(
        self,
        transaction: StoredTransaction,
        *,
        mentions: Sequence[Pubkey],
        before: Accounts,
        after: Accounts,
        finalized_slot: int,
    ) -> None:
        """Makes a landed transaction and its account changes durable, all or nothing."""
        t, slot = transaction, transaction.slot
        with self._db:
            (position,) = self._db.execute(
                "SELECT coalesce(max(position) + 1, 0) FROM transactions WHERE slot = ?", (slot,)
            ).fetchone()
            self._db.execute(
                f"INSERT INTO transactions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant
                (slot, bytes(t.signature), t.wire, t.err, t.meta, t.block_time, position),
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO mentions VALUES (?, ?, ?)",
                [(bytes(address), slot, position) for address in mentions],
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO undo VALUES (?, ?, ?)",  # the first state of a slot stays
                [(slot, bytes(address), _pack(state)) for address, state in before.items()],
            )
            self._db.execute("DELETE FROM undo WHERE slot <= ?", (finalized_slot,))
            self._write_accounts(after)

    def drop_since(self, slot: int, restored: Accounts) -> list[Signature]:
        """Forgets every transaction of `slot` and later, and writes the accounts back."""
        with self._db:
            rows = self._db.execute("SELECT signature FROM transactions WHERE slot >= ?", (slot,))
            dropped = [Signature(signature) for (signature,) in rows]
            for table in ("transactions", "mentions", "undo"):
                self._db.execute(f"DELETE FROM {table} WHERE slot >= ?", (slot,))  # noqa: S608 - constant
            self._write_accounts(restored)
        return dropped

    def transaction(self, signature: Signature) -> StoredTransaction | None:
        """The landed transaction with this first signature."""
        return next(self._select("signature = ?", (bytes(signature),)), None)

    def block(self, slot: int) -> list[StoredTransaction]:
        """The transactions of one slot, in order."""
        return list(self._select("slot = ? ORDER BY position", (slot,)))

    def transaction_count(self, slot: int) -> int:
        """How many transactions landed up to and including `slot`."""
        # Rows are only ever deleted from the end, so a row's number is its rank.
        sql = (
            "SELECT rowid FROM transactions WHERE slot <= ?"
            " ORDER BY slot DESC, position DESC LIMIT 1"
        )
        row = self._db.execute(sql, (slot,)).fetchone()
        return 0 if row is None else int(row[0])

    def mentioning(
        self,
        address: Pubkey,
        *,
        before: tuple[int, int],
        after: tuple[int, int],
        limit: int,
    ) -> list[StoredTransaction]:
        """Transactions that name `address`, newest first, strictly between two (slot, position)."""
        where = (
            "(slot, position) IN (SELECT slot, position FROM mentions WHERE address = ?"
            " AND (slot, position) < (?, ?) AND (slot, position) > (?, ?)"
            " ORDER BY slot DESC, position DESC LIMIT ?) ORDER BY slot DESC, position DESC"
        )
        return list(self._select(where, (bytes(address), *before, *after, limit)))

    def _select(self, where: str, values: tuple[object, ...]) -> Iterator[StoredTransaction]:
        sql = f"SELECT {_COLUMNS} FROM transactions WHERE {where}"  # noqa: S608 - constants
        for slot, signature, wire, err, meta, block_time, position in self._db.execute(sql, values):
            yield StoredTransaction(
                slot, Signature(signature), wire, err, meta, block_time, position
            )

    def _write_accounts(self, accounts: Accounts) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?)",
            [(bytes(address), _pack(account)) for address, account in accounts.items()],
        )


def _pack(account: Account | None) -> bytes | None:
    return None if account is None else bytes(account)


def _unpack(packed: bytes | None) -> Account | None:
    return None if packed is None else Account.from_bytes(packed)
