"""Landed transactions in the encodings of the RPC: json, jsonParsed, base58, base64."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import cast

from solders.message import Message, MessageV0, MessageV1
from solders.transaction import VersionedTransaction

from service.local.chain.instructions import memo_text, parse_instruction
from service.local.chain.params import Options
from service.local.chain.protocol import UNSUPPORTED_TRANSACTION_VERSION, Json, RpcError
from service.local.chain.store import StoredTransaction
from service.local.chain.transactions import compiled_instruction
from session_ledger.encoding import base58_encode


def transaction_form(options: Options) -> tuple[str, int | None]:
    """The encoding and the highest transaction version that the caller asks for."""
    encodings = ("json", "jsonParsed", "base58", "base64")
    return (
        options.choice("encoding", encodings, "json"),
        options.integer("maxSupportedTransactionVersion", high=255),
    )


def render_stored(
    stored: StoredTransaction, encoding: str, max_version: int | None
) -> dict[str, Json]:
    """A landed transaction as `getTransaction` and `getBlock` show it: transaction, meta, version.

    Raises:
        RpcError: the caller did not ask for transactions of this version.
    """
    transaction = VersionedTransaction.from_bytes(stored.wire)
    meta = cast("dict[str, Json]", json.loads(stored.meta))
    versioned = isinstance(transaction.message, MessageV0)
    if versioned and max_version is None:
        raise RpcError(
            UNSUPPORTED_TRANSACTION_VERSION,
            "Transaction version (0) is not supported by the requesting client. Please try the"
            " request again with the following configuration parameter:"
            ' "maxSupportedTransactionVersion": 0',
        )
    rendered: dict[str, Json]
    if encoding == "json":
        rendered = {"transaction": _plain(transaction), "meta": meta}
    elif encoding == "jsonParsed":
        rendered = _parsed(transaction, meta)
    else:
        text = (base58_encode if encoding == "base58" else _base64)(stored.wire)
        rendered = {"transaction": [text, encoding], "meta": meta}
    if max_version is not None:
        rendered["version"] = 0 if versioned else "legacy"
    return rendered


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _plain(transaction: VersionedTransaction) -> Json:
    message = transaction.message
    header = message.header
    body: dict[str, Json] = {
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "accountKeys": [str(key) for key in message.account_keys],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            compiled_instruction(instruction, 1) for instruction in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        body["addressTableLookups"] = _lookups(message)
    return {"signatures": [str(signature) for signature in transaction.signatures], "message": body}


def _is_writable(message: Message | MessageV0 | MessageV1, index: int) -> bool:
    header, keys = message.header, len(message.account_keys)
    signers = header.num_required_signatures
    if index < signers:
        return index < signers - header.num_readonly_signed_accounts
    return index < keys - header.num_readonly_unsigned_accounts


def _lookups(message: MessageV0) -> list[Json]:
    return [
        {
            "accountKey": str(lookup.account_key),
            "writableIndexes": list(lookup.writable_indexes),
            "readonlyIndexes": list(lookup.readonly_indexes),
        }
        for lookup in message.address_table_lookups
    ]


def _parsed(transaction: VersionedTransaction, meta: dict[str, Json]) -> dict[str, Json]:
    message = transaction.message
    loaded = cast("dict[str, list[str]]", meta["loadedAddresses"])
    static = [str(key) for key in message.account_keys]
    names = [*static, *loaded["writable"], *loaded["readonly"]]
    own: list[Json] = [
        {
            "pubkey": name,
            "signer": message.is_signer(index),
            "writable": _is_writable(message, index),
            "source": "transaction",
        }
        for index, name in enumerate(static)
    ]
    looked_up: list[Json] = [
        {"pubkey": name, "signer": False, "writable": kind == "writable", "source": "lookupTable"}
        for kind in ("writable", "readonly")
        for name in loaded[kind]
    ]
    body: dict[str, Json] = {
        "accountKeys": [*own, *looked_up],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            parse_instruction(compiled_instruction(instruction, 1), names)
            for instruction in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        body["addressTableLookups"] = _lookups(message)
    inner = parsed_inner(meta["innerInstructions"], names)
    return {
        "transaction": {
            "signatures": [str(signature) for signature in transaction.signatures],
            "message": body,
        },
        "meta": {**meta, "innerInstructions": inner},
    }


def parsed_inner(groups: Json, names: Sequence[str]) -> list[Json]:
    """Inner instructions in their `jsonParsed` form."""
    return [
        {
            "index": group["index"],
            "instructions": [
                parse_instruction(instruction, names)
                for instruction in cast("list[dict[str, Json]]", group["instructions"])
            ],
        }
        for group in cast("list[dict[str, Json]]", groups)
    ]


def render_memos(stored: StoredTransaction) -> str | None:
    """The memos of a transaction as `getSignaturesForAddress` shows them: `[length] text; ...`."""
    message = VersionedTransaction.from_bytes(stored.wire).message
    keys = message.account_keys
    texts = [
        memo_text(str(keys[instruction.program_id_index]), instruction.data)
        for instruction in message.instructions
        if instruction.program_id_index < len(keys)
    ]
    memos = [f"[{len(text.encode())}] {text}" for text in texts if text is not None]
    return "; ".join(memos) or None
