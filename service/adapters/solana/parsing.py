"""Transactions that strangers send: wire bytes to plain values, and whose signatures hold.

Whatever is not exactly one well-formed transaction is refused here, so that later rules look at
what the cluster would execute: no trailing bytes, no second encoding of the same content, no index
that points nowhere. Spec: Solana, transactions; agave, `SanitizedMessage`.
"""

from typing import Final

from solders.message import Message, MessageV0, to_bytes_versioned
from solders.transaction import SanitizeError, VersionedTransaction

from service.domain.errors import InvalidTransaction, InvalidTransactionEncoding
from service.domain.sponsorship import ParsedInstruction, ParsedTransaction

TRANSACTION_BYTES_MAX: Final = 1_232
"""What fits into one packet. Spec: Solana, transaction size."""


def parse_transaction(raw: bytes) -> ParsedTransaction:
    """The transaction that `raw` holds.

    Raises:
        InvalidTransactionEncoding: the bytes are not one transaction of a known version.
        InvalidTransaction: a transaction that no cluster would take.
    """
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise InvalidTransactionEncoding(
            f"{len(raw)} bytes, a transaction has at most {TRANSACTION_BYTES_MAX}"
        )
    try:
        transaction = VersionedTransaction.from_bytes(raw)
    except ValueError:
        raise InvalidTransactionEncoding("the bytes are not a transaction") from None
    if bytes(transaction) != raw:
        raise InvalidTransactionEncoding("the bytes are more than one transaction's own encoding")
    message = transaction.message
    if not isinstance(message, Message | MessageV0):
        raise InvalidTransactionEncoding("only legacy and version 0 transactions are read")
    try:
        transaction.sanitize()
    except SanitizeError:
        raise InvalidTransaction("a count or an index of the transaction points nowhere") from None
    return _parsed(transaction, message)


def _parsed(transaction: VersionedTransaction, message: Message | MessageV0) -> ParsedTransaction:
    keys = [str(key) for key in message.account_keys]
    if len(set(keys)) < len(keys):
        raise InvalidTransaction("an account is listed twice")
    tables = message.address_table_lookups if isinstance(message, MessageV0) else []
    looked_up = sum(len(table.writable_indexes) + len(table.readonly_indexes) for table in tables)
    addresses = [*keys, *("" for _ in range(looked_up))]
    signers = tuple(keys[: message.header.num_required_signatures])
    content = to_bytes_versioned(message)
    return ParsedTransaction(
        message=content,
        version="v0" if isinstance(message, MessageV0) else "legacy",
        signers=signers,
        signatures=tuple(bytes(signature) for signature in transaction.signatures),
        verified=frozenset(
            str(key)
            for key, signature in zip(message.account_keys, transaction.signatures, strict=False)
            if signature.verify(key, content)
        ),
        instructions=tuple(
            ParsedInstruction(
                program=addresses[step.program_id_index],
                accounts=tuple(addresses[index] for index in step.accounts),
                data=bytes(step.data),
            )
            for step in message.instructions
        ),
        blockhash=str(message.recent_blockhash),
        lookup_tables=len(tables),
    )
