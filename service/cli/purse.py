"""A buyer's purse on disk: the sealed session key and what the client signed with it."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from nacl.signing import SigningKey

from service.cli.output import fail
from session_ledger.buyer import FileStore, KeySigner, SealedKey, SessionKeyLocked, StoreError

PURSE_DEFAULT: Final = Path(".session-purse")
_KEY_BYTES: Final = 64
_SEED_BYTES: Final = 32
_MODE: Final = 0o600

Purse = Annotated[
    Path, typer.Option(help="Directory of the session key and of what was signed with it.")
]
Owner = Annotated[
    Path,
    typer.Option(
        exists=True, dir_okay=False, help="The owner's key: a Solana key file (64 numbers)."
    ),
]
Pin = Annotated[
    str,
    typer.Option(
        envvar="SESSION_PIN",
        prompt="PIN of the session key",
        hide_input=True,
        help="PIN of the session key; better from SESSION_PIN or the prompt than from here.",
    ),
]
LedgerUrl = Annotated[str, typer.Option("--ledger", help="Base address of the session ledger.")]
LEDGER_DEFAULT: Final = "http://127.0.0.1:8000"


def sealed_file(purse: Path) -> Path:
    """The file of the sealed key."""
    return purse / "session.json"


def store_of(purse: Path, *, as_json: bool) -> FileStore:
    """The purse's store."""
    try:
        return FileStore(purse / "purse.json")
    except (StoreError, OSError) as error:
        fail(str(error), as_json=as_json, code="purse_unusable")


def keep_sealed(purse: Path, sealed: SealedKey) -> None:
    """Write the sealed key, for the owner of the file only."""
    file = sealed_file(purse)
    file.touch(mode=_MODE)
    file.chmod(_MODE)
    file.write_text(sealed.to_text() + "\n")


def session_key(purse: Path, pin: str, *, as_json: bool) -> SigningKey:
    """The session key that the PIN opens."""
    try:
        return SealedKey.parse(sealed_file(purse).read_text()).open(pin)
    except OSError:
        fail(
            f"{purse} holds no session: make one with `session-ledger grant create`",
            as_json=as_json,
            code="session_missing",
        )
    except SessionKeyLocked as error:
        fail(str(error), as_json=as_json, code="session_key_locked")


def owner_key(file: Path, *, as_json: bool) -> KeySigner:
    """The owner's key out of a Solana key file."""
    return KeySigner(seed_of(file, as_json=as_json))


def seed_of(file: Path, *, as_json: bool) -> bytes:
    """The 32 bytes of seed in a Solana key file."""
    try:
        raw = bytes(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        raw = b""
    if len(raw) != _KEY_BYTES or bytes(SigningKey(raw[:_SEED_BYTES]).verify_key) != raw[32:]:
        fail(f"{file} is no Solana key file", as_json=as_json, code="invalid_key_file")
    return raw[:_SEED_BYTES]
