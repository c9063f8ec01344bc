"""Accounts in the encodings of the RPC."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from solders.account import Account

from service.local.chain.params import Options
from service.local.chain.protocol import INVALID_REQUEST, Json, RpcError, invalid_params
from service.local.chain.tokens import AccountReader, parse_token_data
from session_ledger.encoding import base58_encode

BASE58_DATA_BYTES_MAX: Final = 128
"""Longest account data that the RPC gives in base58."""

_ENCODINGS: Final = ("base58", "base64", "base64+zstd", "jsonParsed", "binary")


@dataclass(frozen=True, slots=True)
class AccountForm:
    """How the caller wants accounts: encoding and slice of the data."""

    encoding: str
    offset: int
    length: int | None
    strict: bool = True
    """Whether data that is too long for base58 is an error; notifications turn to base64."""

    def render(self, account: Account | None, read: AccountReader) -> Json:
        """The account as the RPC shows it; null for no account.

        Raises:
            RpcError: base58 was asked for data that is too long for it.
        """
        if account is None:
            return None
        return {
            "lamports": account.lamports,
            "owner": str(account.owner),
            "data": self._data(account, read),
            "executable": account.executable,
            "rentEpoch": account.rent_epoch,
            "space": len(account.data),
        }

    def _data(self, account: Account, read: AccountReader) -> Json:
        if self.encoding == "jsonParsed":
            parsed = parse_token_data(account, read)
            if parsed is not None:
                return parsed
        end = None if self.length is None else self.offset + self.length
        data = account.data[self.offset : end]
        too_long = len(data) > BASE58_DATA_BYTES_MAX
        if self.encoding not in {"base58", "binary"} or (too_long and not self.strict):
            return [b64encode(data).decode(), "base64"]
        if too_long:
            raise RpcError(
                INVALID_REQUEST,
                "Encoded binary (base 58) data should be less than 128 bytes, please use Base64"
                " encoding.",
            )
        text = base58_encode(data)
        return text if self.encoding == "binary" else [text, "base58"]


def account_form(options: Options, default: str = "binary") -> AccountForm:
    """The form that `encoding` and `dataSlice` ask for.

    Raises:
        RpcError: an unknown encoding, or zstd, for which this server has no library.
    """
    encoding = options.choice("encoding", _ENCODINGS, default)
    if encoding == "base64+zstd":
        raise invalid_params("Invalid params: base64+zstd is not served here, use base64")
    piece = options.group("dataSlice")
    if piece is None:
        return AccountForm(encoding, 0, None)
    return AccountForm(encoding, piece.integer("offset") or 0, piece.integer("length"))
