"""RPC methods about the node, its clock and its blocks. Spec: solana.com/docs/rpc/http."""

import time
from typing import Final

from service.local.chain.bank import SOLANA_CORE, Bank
from service.local.chain.genesis import FIRST_SLOT, SLOTS_PER_EPOCH, faucet
from service.local.chain.params import Params
from service.local.chain.protocol import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    Json,
    RpcError,
    invalid_params,
)
from service.local.chain.rendering import render_stored, transaction_form
from service.local.chain.slots import BLOCKHASH_WINDOW, height_of

BLOCKS_RANGE_MAX: Final = 500_000
"""Most slots that one getBlocks may span."""

_FEE_SLOTS: Final = 150
_FEE_ACCOUNTS_MAX: Final = 128


def _get_health(_bank: Bank, _params: Params) -> Json:
    return "ok"


def _get_version(_bank: Bank, _params: Params) -> Json:
    return {"solana-core": SOLANA_CORE, "feature-set": 0}


def _get_genesis_hash(bank: Bank, _params: Params) -> Json:
    return bank.genesis_hash


def _get_identity(_bank: Bank, _params: Params) -> Json:
    return {"identity": str(faucet().pubkey())}


def _get_cluster_nodes(_bank: Bank, _params: Params) -> Json:
    return [
        {
            "pubkey": str(faucet().pubkey()),
            "gossip": None,
            "tpu": None,
            "rpc": None,
            "version": SOLANA_CORE,
            "featureSet": 0,
            "shredVersion": 0,
        }
    ]


def _get_slot(bank: Bank, params: Params) -> Json:
    return params.options(0).view(bank).slot


def _get_block_height(bank: Bank, params: Params) -> Json:
    return params.options(0).view(bank).height


def _get_transaction_count(bank: Bank, params: Params) -> Json:
    return bank.store.transaction_count(params.options(0).view(bank).slot)


def _get_epoch_info(bank: Bank, params: Params) -> Json:
    view = params.options(0).view(bank)
    epoch, index = divmod(view.slot, SLOTS_PER_EPOCH)
    return {
        "absoluteSlot": view.slot,
        "blockHeight": view.height,
        "epoch": epoch,
        "slotIndex": index,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": bank.store.transaction_count(view.slot),
    }


def _get_latest_blockhash(bank: Bank, params: Params) -> Json:
    view = params.options(0).view(bank)
    return view.in_context(
        {
            "blockhash": str(bank.blockhash(view.slot)),
            "lastValidBlockHeight": view.height + BLOCKHASH_WINDOW,
        }
    )


def _is_blockhash_valid(bank: Bank, params: Params) -> Json:
    view = params.options(1).view(bank)
    return view.in_context(bank.blockhashes.usable(params.blockhash(0), view.height))


def _get_recent_prioritization_fees(bank: Bank, params: Params) -> Json:
    if params.get(0) is not None:
        params.items(0, at_most=_FEE_ACCOUNTS_MAX)
    slot = bank.tick()
    first = max(FIRST_SLOT, slot - _FEE_SLOTS + 1)
    return [{"slot": past, "prioritizationFee": 0} for past in range(first, slot + 1)]


def _first_slot(_bank: Bank, _params: Params) -> Json:
    return FIRST_SLOT


def _get_blocks(bank: Bank, params: Params) -> Json:
    """Every slot since genesis has a block."""
    options = params.options(1 if isinstance(params.get(1), dict) else 2)
    newest = options.view(bank, options.history_level()).slot
    first = params.integer(0)
    last = newest if isinstance(params.get(1), dict | None) else params.integer(1)
    if last - first > BLOCKS_RANGE_MAX:
        raise invalid_params(f"Slot range too large; max {BLOCKS_RANGE_MAX}")
    return list(range(max(first, FIRST_SLOT), min(last, newest) + 1))


def _check_block(slot: int, newest: int) -> None:
    if slot < FIRST_SLOT:
        raise RpcError(
            BLOCK_CLEANED_UP,
            f"Block {slot} cleaned up, does not exist on node. First available block: {FIRST_SLOT}",
        )
    if slot > newest:
        raise RpcError(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")


def _block_time(bank: Bank, slot: int) -> int:
    """Unix seconds of `slot`: that of its transactions, else counted back from now."""
    block = bank.store.block(slot)
    if block:
        return block[0].block_time
    return int(time.time() - (bank.tick() - slot) * bank.settings.slot_seconds)


def _get_block_time(bank: Bank, params: Params) -> Json:
    slot = params.integer(0)
    _check_block(slot, bank.tick())
    return _block_time(bank, slot)


def _get_block(bank: Bank, params: Params) -> Json:
    slot, options = params.integer(0), params.options(1)
    _check_block(slot, options.view(bank, options.history_level()).slot)
    block: dict[str, Json] = {
        "blockhash": str(bank.blockhash(slot)),
        "previousBlockhash": str(bank.blockhash(slot - 1)),
        "parentSlot": slot - 1,
        "blockHeight": height_of(slot),
        "blockTime": _block_time(bank, slot),
    }
    if options.flag("rewards", default=True):
        block["rewards"] = []
    details = options.choice("transactionDetails", ("full", "signatures", "none"), "full")
    stored = bank.store.block(slot)
    if details == "full":
        encoding, version = transaction_form(options)
        block["transactions"] = [render_stored(item, encoding, version) for item in stored]
    elif details == "signatures":
        block["signatures"] = [str(item.signature) for item in stored]
    return block


METHODS: Final = {
    "getHealth": _get_health,
    "getVersion": _get_version,
    "getGenesisHash": _get_genesis_hash,
    "getIdentity": _get_identity,
    "getClusterNodes": _get_cluster_nodes,
    "getSlot": _get_slot,
    "getBlockHeight": _get_block_height,
    "getTransactionCount": _get_transaction_count,
    "getEpochInfo": _get_epoch_info,
    "getLatestBlockhash": _get_latest_blockhash,
    "isBlockhashValid": _is_blockhash_valid,
    "getRecentPrioritizationFees": _get_recent_prioritization_fees,
    "getFirstAvailableBlock": _first_slot,
    "minimumLedgerSlot": _first_slot,
    "getBlocks": _get_blocks,
    "getBlockTime": _get_block_time,
    "getBlock": _get_block,
}
