"""Readings of several askers in one request: each has its own answer, or none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from settlement_rig import FEE_PAYER, MINT, SOURCE, keypair

from service.adapters.solana.accounts import HEAD_BYTES
from service.adapters.solana.shared_reads import SharedReads
from service.domain.errors import ChainUnavailable
from service.domain.onchain import Commitment
from tests.integration.rpc_provider import (
    BAD_VALUES,
    HONEST,
    RAW,
    Provider,
    Refused,
    connected,
    context,
)

NAMES = [str(keypair(f"number {number}").pubkey()) for number in range(16)]
STATUS = {"slot": 880, "confirmations": 3, "err": None, "confirmationStatus": "confirmed"}


@asynccontextmanager
async def shared() -> AsyncIterator[tuple[Provider, SharedReads]]:
    async with connected() as (provider, rpc):
        reads = SharedReads(rpc)
        try:
            yield provider, reads
        finally:
            await reads.close()


async def unread(reads: list[Awaitable[Any]]) -> list[int]:
    """Which of the readings had no answer."""
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(f, ChainUnavailable) for f in found if isinstance(f, BaseException))
    return [number for number, f in enumerate(found) if isinstance(f, ChainUnavailable)]


@pytest.mark.parametrize("bad", [value for value in BAD_VALUES if value is not None])
async def test_a_malformed_status_is_no_answer_for_its_signature_alone(bad: Any) -> None:
    async with shared() as (provider, reads):
        provider.answers["getSignatureStatuses"] = lambda params: context(
            [bad if name == NAMES[5] else STATUS for name in params[0]]
        )
        assert await unread([reads.signature_status(name) for name in NAMES]) == [5]


async def test_a_malformed_account_is_no_answer_for_its_address_alone() -> None:
    async with shared() as (provider, reads):
        account = HONEST["getAccountInfo"]["value"]
        provider.answers["getMultipleAccounts"] = lambda params: context(
            [{**account, "lamports": -1} if name == NAMES[5] else account for name in params[0]]
        )
        assert await unread([reads.token_account(name, "confirmed") for name in NAMES]) == [5]
        assert await unread([reads.lamports(name) for name in NAMES]) == [5]


async def test_a_provider_that_answers_fewer_than_asked_is_asked_for_fewer() -> None:
    """Which of them a short list leaves out cannot be known, so none of it is believed."""
    async with shared() as (provider, reads):
        provider.answers["getSignatureStatuses"] = lambda params: context(
            [{**STATUS, "slot": NAMES.index(name)} for name in params[0][:4]]
        )
        found = await asyncio.gather(*(reads.signature_status(name) for name in NAMES))
    assert [status.slot for status in found] == list(range(len(NAMES)))


@pytest.mark.parametrize("value", [None, [], [None] * 17, {}, "x", [STATUS] * 17])
async def test_a_list_that_is_none_or_too_short_or_too_long_is_no_answer(value: Any) -> None:
    """Above all it is not the answer that the provider knows nothing of a signature."""
    async with shared() as (provider, reads):
        provider.answers["getSignatureStatuses"] = context(value)
        refused = await unread([reads.signature_status(name) for name in NAMES])
    assert refused == list(range(len(NAMES)))


async def test_a_key_that_the_provider_refuses_is_no_answer_for_that_key_alone() -> None:
    async with shared() as (provider, reads):
        provider.answers["getMultipleAccounts"] = lambda params: (
            Refused(-32602) if NAMES[5] in params[0] else context([None] * len(params[0]))
        )
        assert await unread([reads.lamports(name) for name in NAMES]) == [5]


async def test_a_node_that_is_behind_is_asked_once() -> None:
    async with shared() as (provider, reads):
        provider.answers["getMultipleAccounts"] = lambda _: Refused(-32005)
        assert len(await unread([reads.lamports(name) for name in NAMES])) == len(NAMES)
        assert len(provider.asked["getMultipleAccounts"]) == 1


async def test_a_commitment_is_part_of_the_question() -> None:
    async with shared() as (provider, reads):
        provider.answers["getMultipleAccounts"] = lambda params: context([None] * len(params[0]))
        levels: list[Commitment] = ["processed", "confirmed", "finalized"]
        await asyncio.gather(*(reads.token_account(SOURCE, level) for level in levels))
        asked = [options["commitment"] for _, options in provider.asked["getMultipleAccounts"]]
    assert sorted(asked) == sorted(levels)


async def test_what_is_asked_in_one_moment_is_one_request() -> None:
    async with shared() as (provider, reads):
        provider.answers["getMultipleAccounts"] = lambda params: context([None] * len(params[0]))
        provider.answers["getSignatureStatuses"] = lambda params: context([None] * len(params[0]))
        await asyncio.gather(
            *(reads.lamports(name) for name in NAMES),
            *(reads.token_account(name, "confirmed") for name in NAMES),
            *(reads.signature_status(name) for name in NAMES),
            *(reads.latest_blockhash() for _ in NAMES),
            *(reads.heights() for _ in NAMES),
            *(reads.mint(MINT) for _ in NAMES),
        )
        counts = {method: len(asked) for method, asked in provider.asked.items()}
    assert counts.pop("getGenesisHash") <= 6, "once for each kind, before the first answer counts"
    assert counts.pop("getBlockHeight") == counts.pop("getFirstAvailableBlock") == 2
    assert set(counts.values()) == {1}, counts


async def test_strangers_wallets_cannot_make_a_shared_reading_large() -> None:
    async with shared() as (provider, reads):
        provider.answers["getMultipleAccounts"] = lambda params: context([None] * len(params[0]))
        await reads.lamports(FEE_PAYER)
        options = provider.asked["getMultipleAccounts"][0][1]
    assert options["dataSlice"] == {"offset": 0, "length": HEAD_BYTES}


async def test_shared_blockhashes_are_of_the_right_cluster_each_time() -> None:
    async with shared() as (provider, reads):
        await asyncio.gather(reads.latest_blockhash(), reads.latest_blockhash())
        provider.answers["getGenesisHash"] = "another"
        assert await unread([reads.latest_blockhash(), reads.latest_blockhash()]) == [0, 1]
        assert await unread([reads.send(RAW)]) == [0], "until the identity is proven again"
        del provider.answers["getGenesisHash"]
        await reads.latest_blockhash()


async def test_a_cluster_that_changes_while_a_blockhash_is_read_is_noticed_by_later_askers() -> (
    None
):
    late: list[Awaitable[Any]] = []
    async with shared() as (provider, reads):

        def changing(_params: Any) -> Any:
            provider.answers["getGenesisHash"] = "another"
            late.append(asyncio.create_task(reads.latest_blockhash()))
            return HONEST["getLatestBlockhash"]

        provider.answers["getLatestBlockhash"] = changing
        await reads.latest_blockhash()
        assert await unread(late) == [0]
