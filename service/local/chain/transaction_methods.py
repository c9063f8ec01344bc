"""RPC methods that take, simulate and find transactions. Spec: solana.com/docs/rpc/http.

There is no network between this node and a leader, so a transaction is executed while it is
being sent: `maxRetries` is checked and has nothing to do. Simulation always sees the newest state;
the preflight commitment decides which blockhashes are known and which `minContextSlot` is reached.
Durable nonces are not supported: their transactions are answered with `BlockhashNotFound`.
"""

import json
import secrets
from base64 import b64decode
from typing import Final, cast

from solders.instruction import Instruction
from solders.message import MessageV0, from_bytes_versioned
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from service.local.chain.accounts import account_form
from service.local.chain.bank import Bank
from service.local.chain.base58 import base58_decode
from service.local.chain.genesis import faucet
from service.local.chain.instructions import MEMO_PROGRAM_ID
from service.local.chain.params import Options, Params, parse_address, parse_signature
from service.local.chain.protocol import (
    PREFLIGHT_FAILURE,
    SIGNATURE_VERIFICATION_FAILURE,
    Json,
    RpcError,
    invalid_params,
    transaction_error_text,
)
from service.local.chain.rendering import (
    parsed_inner,
    render_memos,
    render_stored,
    transaction_form,
)
from service.local.chain.slots import BLOCKHASH_WINDOW, Level, height_of
from service.local.chain.store import StoredTransaction
from service.local.chain.transactions import Execution, account_keys, parse_transaction

STATUSES_MAX: Final = 256
"""Most signatures in one getSignatureStatuses."""

SIGNATURES_MAX: Final = 1_000
"""Most signatures in one getSignaturesForAddress."""

STATUS_CACHE_SLOTS: Final = 300
"""Slots for which a status is known without `searchTransactionHistory`, as on a validator."""

_AIRDROP_LAMPORTS_MAX: Final = 10**15
_SIMULATED_ACCOUNTS_MAX: Final = 64
_RETRIES_MAX: Final = 2**32 - 1


def _read_transaction(text: str, encoding: str) -> VersionedTransaction:
    """The transaction in a request.

    Raises:
        RpcError: not of this encoding, too long, or not a consistent transaction.
    """
    try:
        wire = base58_decode(text) if encoding == "base58" else b64decode(text, validate=True)
    except ValueError as error:
        raise invalid_params(f"invalid {encoding} encoding: {error}") from error
    return parse_transaction(wire)


def _verify(transaction: VersionedTransaction) -> None:
    if not all(transaction.verify_with_results()):
        raise RpcError(SIGNATURE_VERIFICATION_FAILURE, "Transaction signature verification failure")


def _transaction(params: Params) -> VersionedTransaction:
    encoding = params.options(1).choice("encoding", ("base58", "base64"), "base58")
    return _read_transaction(params.text(0), encoding)


def first_signature(params: Params) -> str:
    """The signature of the transaction in the parameters of a `sendTransaction`."""
    return str(_transaction(params).signatures[0])


def _send_transaction(bank: Bank, params: Params) -> Json:
    options, transaction = params.options(1), _transaction(params)
    skip = options.flag("skipPreflight")
    options.integer("maxRetries", high=_RETRIES_MAX)
    level = Level.PROCESSED if skip else options.level("preflightCommitment")
    view = options.view(bank, level)
    if not skip:
        _preflight(bank, transaction, view.height)
    bank.send(transaction)
    return str(transaction.signatures[0])


def _preflight(bank: Bank, transaction: VersionedTransaction, height: int) -> None:
    _verify(transaction)
    refused = bank.refusal(transaction, at_height=height)
    execution = bank.simulate(transaction) if refused is None else Execution.refused(refused)
    if execution.err is not None:
        raise RpcError(
            PREFLIGHT_FAILURE,
            f"Transaction simulation failed: {transaction_error_text(execution.err)}",
            _simulation(execution),
        )


def _simulation(execution: Execution) -> dict[str, Json]:
    return {
        "err": execution.err,
        "logs": execution.logs,
        "accounts": None,
        "unitsConsumed": execution.units_consumed,
        "returnData": execution.return_data,
        "innerInstructions": None,
        "replacementBlockhash": None,
    }


def _simulate_transaction(bank: Bank, params: Params) -> Json:
    options, transaction = params.options(1), _transaction(params)
    view = options.view(bank)
    replace = options.flag("replaceRecentBlockhash")
    if options.flag("sigVerify"):
        if replace:
            raise invalid_params("sigVerify may not be used with replaceRecentBlockhash")
        _verify(transaction)
    refused = bank.refusal(transaction, at_height=view.height, check_blockhash=not replace)
    execution = bank.simulate(transaction) if refused is None else Execution.refused(refused)
    value = _simulation(execution)
    if options.flag("innerInstructions"):
        names = [
            str(key) for key in account_keys(transaction, bank.view(Level.PROCESSED).account).all
        ]
        value["innerInstructions"] = parsed_inner(execution.inner_instructions, names)
    if replace:
        value["replacementBlockhash"] = {
            "blockhash": str(bank.blockhash(view.slot)),
            "lastValidBlockHeight": view.height + BLOCKHASH_WINDOW,
        }
    wanted = options.group("accounts")
    if wanted is not None:
        value["accounts"] = _simulated_accounts(bank, execution, wanted)
    return view.in_context(value)


def _simulated_accounts(bank: Bank, execution: Execution, wanted: Options) -> list[Json]:
    addresses = wanted.items("addresses") or []
    if len(addresses) > _SIMULATED_ACCOUNTS_MAX:
        raise invalid_params(f"Too many accounts provided; max {_SIMULATED_ACCOUNTS_MAX}")
    if execution.err is not None:
        return [None for _ in addresses]
    form, view = account_form(wanted, "base64"), bank.view(Level.PROCESSED)
    after = execution.post_accounts
    return [
        form.render(after.get(key) or view.account(key), view.account)
        for key in map(parse_address, addresses)
    ]


def _request_airdrop(bank: Bank, params: Params) -> Json:
    """A real transfer from the faucet; the memo keeps two equal airdrops apart."""
    to = params.address(0)
    lamports = params.integer(1, low=1, high=_AIRDROP_LAMPORTS_MAX)
    payer = faucet()
    send = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=lamports))
    unique = Instruction(MEMO_PROGRAM_ID, b"airdrop " + secrets.token_hex(8).encode(), [])
    blockhash = bank.blockhash(bank.tick())
    message = MessageV0.try_compile(payer.pubkey(), [send, unique], [], blockhash)
    transaction = VersionedTransaction(message, [payer])
    _preflight(bank, transaction, height_of(bank.tick()))
    bank.send(transaction)
    return str(transaction.signatures[0])


def _get_fee_for_message(bank: Bank, params: Params) -> Json:
    view = params.options(1).view(bank)
    try:
        message = from_bytes_versioned(b64decode(params.text(0), validate=True))
    except ValueError as error:
        raise invalid_params(f"Invalid param: not a message: {error}") from error
    unsigned = [Signature.default()] * message.header.num_required_signatures
    transaction = parse_transaction(bytes(VersionedTransaction.populate(message, unsigned)))
    if not bank.blockhashes.usable(message.recent_blockhash, view.height):
        return view.in_context(None)
    return view.in_context(bank.simulate(transaction).fee_lamports)


def _get_signature_statuses(bank: Bank, params: Params) -> Json:
    signatures = [parse_signature(item) for item in params.items(0, at_most=STATUSES_MAX)]
    everything = params.options(1).flag("searchTransactionHistory")
    view = bank.view(Level.PROCESSED)
    oldest = 0 if everything else view.slot - STATUS_CACHE_SLOTS
    return view.in_context([_status(bank, view.slot, item, oldest) for item in signatures])


def _status(bank: Bank, slot: int, signature: Signature, oldest: int) -> Json:
    stored = bank.store.transaction(signature)
    if stored is None or stored.slot < oldest:
        return None
    err, level = _stored_err(stored), bank.level_of(stored.slot)
    ok: Json = {"Ok": None}
    return {
        "slot": stored.slot,
        "confirmations": None if level is Level.FINALIZED else slot - stored.slot,
        "err": err,
        "status": ok if err is None else {"Err": err},
        "confirmationStatus": level.value,
    }


def _stored_err(stored: StoredTransaction) -> Json:
    return None if stored.err is None else cast("Json", json.loads(stored.err))


def _get_transaction(bank: Bank, params: Params) -> Json:
    given = params.get(1)
    options = Options({"encoding": given}) if isinstance(given, str) else params.options(1)
    encoding, version = transaction_form(options)
    view = options.view(bank, options.history_level())
    stored = bank.store.transaction(params.signature(0))
    if stored is None or stored.slot > view.slot:
        return None
    rendered = render_stored(stored, encoding, version)
    return {**rendered, "slot": stored.slot, "blockTime": stored.block_time}


def _get_signatures_for_address(bank: Bank, params: Params) -> Json:
    options = params.options(1)
    view = options.view(bank, options.history_level())
    newest = (view.slot + 1, 0)
    found = bank.store.mentioning(
        params.address(0),
        before=min(newest, _place(bank, options, "before", newest)),
        after=_place(bank, options, "until", (0, 0)),
        limit=options.integer("limit", low=1, high=SIGNATURES_MAX) or SIGNATURES_MAX,
    )
    return [
        {
            "signature": str(item.signature),
            "slot": item.slot,
            "err": _stored_err(item),
            "memo": render_memos(item),
            "blockTime": item.block_time,
            "confirmationStatus": bank.level_of(item.slot).value,
        }
        for item in found
    ]


def _place(bank: Bank, options: Options, name: str, default: tuple[int, int]) -> tuple[int, int]:
    """Where a named signature stands in the ledger; the very beginning for an unknown one."""
    text = options.text(name)
    if text is None:
        return default
    stored = bank.store.transaction(parse_signature(text))
    return (0, 0) if stored is None else (stored.slot, stored.position)


METHODS: Final = {
    "sendTransaction": _send_transaction,
    "simulateTransaction": _simulate_transaction,
    "requestAirdrop": _request_airdrop,
    "getFeeForMessage": _get_fee_for_message,
    "getSignatureStatuses": _get_signature_statuses,
    "getTransaction": _get_transaction,
    "getSignaturesForAddress": _get_signatures_for_address,
}
