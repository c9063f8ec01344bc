"""The RPC adapter against a provider that answers anything: an answer or `ChainUnavailable`."""

import asyncio
from typing import Any

import pytest
from settlement_rig import FEE_PAYER, MINT, SOURCE

from service.adapters.solana.rpc import SolanaRpc
from service.domain.errors import ChainUnavailable
from tests.integration.rpc_provider import (
    BAD_VALUES,
    CALLED,
    GENESIS,
    HONEST,
    RAW,
    SIGNATURE,
    connected,
    context,
    corruptions,
    http,
)

CALLS = {
    "getGenesisHash": lambda rpc: rpc.latest_blockhash(),
    "getLatestBlockhash": lambda rpc: rpc.latest_blockhash(),
    "getBlockHeight": lambda rpc: rpc.heights(),
    "getFirstAvailableBlock": lambda rpc: rpc.heights(),
    "getEpochInfo": lambda rpc: rpc.heights(),
    "getBalance": lambda rpc: rpc.lamports(FEE_PAYER),
    "getAccountInfo": lambda rpc: asyncio.gather(
        rpc.token_account(SOURCE, "confirmed"), rpc.mint(MINT)
    ),
    "simulateTransaction": lambda rpc: rpc.simulate(RAW),
    "sendTransaction": lambda rpc: rpc.send(RAW),
    "getSignatureStatuses": lambda rpc: rpc.signature_status(SIGNATURE),
    "getTransaction": lambda rpc: rpc.finalized_transaction(SIGNATURE),
}


@pytest.mark.parametrize("method", HONEST)
async def test_an_honest_answer_is_read(method: str) -> None:
    async with connected() as (_, rpc):
        await CALLS[method](rpc)


@pytest.mark.parametrize("method", HONEST)
async def test_an_answer_of_any_form_is_read_or_is_unavailability(method: str) -> None:
    read = refused = 0
    async with connected() as (provider, rpc):
        for answer in corruptions(HONEST[method]):
            provider.answers[method] = answer
            try:
                await CALLS[method](rpc)
                read += 1
            except ChainUnavailable:
                refused += 1
    assert read + refused >= len(BAD_VALUES)
    assert refused > 0 or method == "sendTransaction"


HELD = b'{"context":{"slot":1},"value":5}'
TRANSPORT = {
    "too many requests": http(b"{}", "429 Too Many Requests"),
    "server error": http(b"oops", "500 Internal Server Error"),
    "redirect": http(b"", "302 Found", "location: http://127.0.0.1:1/\r\n"),
    "no JSON": http(b"<html>"),
    "cut off JSON": http(b'{"jsonrpc":"2.0","id":2,"res'),
    "empty": http(b""),
    "no UTF-8": http(b'{"jsonrpc":"2.0","id":2,"result":"\xff\xfe"}'),
    "nested": http(b"[" * 100_000),
    "a batch": http(b"[]"),
    "twice the member": http(b'{"jsonrpc":"2.0","id":2,"result":%s,"result":%s}' % (HELD, HELD)),
    "no HTTP": b"hello\r\n\r\n",
    "cut off body": b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{",
    "false gzip": http(b"no gzip", more="content-encoding: gzip\r\n"),
    "closed": b"",
}


@pytest.mark.parametrize("how", TRANSPORT)
async def test_a_broken_transport_is_unavailability_and_shows_no_key(how: str) -> None:
    async with connected() as (provider, rpc):
        provider.raw["getBalance"] = TRANSPORT[how]
        with pytest.raises(ChainUnavailable) as caught:
            await rpc.lamports(FEE_PAYER)
    assert "hidden-key" not in f"{caught.value} {caught.value.__cause__}"
    assert "hidden-key" not in rpc.name


async def test_the_answer_that_the_broken_ones_vary_is_read() -> None:
    """The genesis check was request 1, so request 2 is the one that is answered."""
    async with connected() as (provider, rpc):
        provider.raw["getBalance"] = http(b'{"jsonrpc":"2.0","id":2,"result":%s}' % HELD)
        assert await rpc.lamports(FEE_PAYER) == 5


async def test_an_answer_that_does_not_come_is_unavailability() -> None:
    async with connected() as (provider, rpc):
        await rpc.genesis_hash()
        provider.delay["getBalance"] = 1.0
        with pytest.raises(ChainUnavailable):
            await rpc.lamports(FEE_PAYER)


@pytest.mark.parametrize("number", [0, "1", None, 99, [1]])
async def test_an_answer_to_another_request_is_unavailability(number: Any) -> None:
    async with connected() as (provider, rpc):
        provider.members["getBalance"] = {"id": number}
        with pytest.raises(ChainUnavailable, match="another request"):
            await rpc.lamports(FEE_PAYER)


@pytest.mark.parametrize("code", [-32005, -32011, -32016, -32601])
async def test_a_refusal_to_read_is_unavailability(code: int) -> None:
    async with connected() as (provider, rpc):
        provider.members["getSignatureStatuses"] = {"error": {"code": code, "message": "no"}}
        with pytest.raises(ChainUnavailable, match=str(code)):
            await rpc.signature_status(SIGNATURE)


async def test_a_refusal_to_send_is_only_a_result() -> None:
    async with connected() as (provider, rpc):
        error = {"code": -32002, "message": "no", "data": {"err": "AlreadyProcessed"}}
        provider.members["sendTransaction"] = {"error": error}
        assert await rpc.send(RAW) == "refused -32002"


@pytest.mark.parametrize("code", [-32003, -32006])
async def test_refused_signatures_are_a_finding_of_the_simulation(code: int) -> None:
    async with connected() as (provider, rpc):
        provider.members["simulateTransaction"] = {"error": {"code": code, "message": "no"}}
        assert (await rpc.simulate(RAW)).error == "SignatureFailure"


@pytest.mark.parametrize(
    ("shown", "named"),
    [
        ([], ()),
        (
            [{"index": 0, "instructions": [{"programId": CALLED}, {"programId": CALLED}]}],
            (CALLED,) * 2,
        ),
        ([{"index": 0, "instructions": [{"programId": CALLED}, {"programIdIndex": 1}]}], None),
        (None, None),
    ],
)
async def test_called_programs_are_named_all_or_not_at_all(
    shown: object, named: tuple[str, ...] | None
) -> None:
    async with connected() as (provider, rpc):
        value = {"err": None, "unitsConsumed": 5, "innerInstructions": shown}
        provider.answers["simulateTransaction"] = context(value)
        assert (await rpc.simulate(RAW, complete=False)).inner_programs == named


@pytest.mark.parametrize("shown", [[1], [{}], [{"instructions": 1}], [{"instructions": [1]}]])
async def test_called_programs_that_cannot_be_read_are_no_answer(shown: object) -> None:
    async with connected() as (provider, rpc):
        value = {"err": None, "unitsConsumed": 5, "innerInstructions": shown}
        provider.answers["simulateTransaction"] = context(value)
        with pytest.raises(ChainUnavailable):
            await rpc.simulate(RAW, complete=False)


async def test_a_provider_of_another_cluster_answers_nothing() -> None:
    async with connected() as (provider, rpc):
        provider.answers["getGenesisHash"] = "another"
        for call in (rpc.lamports(FEE_PAYER), rpc.send(RAW), rpc.signature_status(SIGNATURE)):
            with pytest.raises(ChainUnavailable, match="another cluster"):
                await call


async def test_a_provider_that_changes_its_cluster_is_noticed_before_signing() -> None:
    async with connected() as (provider, rpc):
        await rpc.latest_blockhash()
        provider.answers["getGenesisHash"] = "another"
        with pytest.raises(ChainUnavailable, match="another cluster"):
            await rpc.latest_blockhash()


async def test_a_transaction_that_was_not_asked_for_is_refused() -> None:
    async with connected() as (_, rpc):
        with pytest.raises(ChainUnavailable, match="another transaction"):
            await rpc.finalized_transaction("1" * 64)


async def test_old_statuses_are_finalized_by_null_confirmations() -> None:
    async with connected() as (provider, rpc):
        old = {"slot": 5, "confirmations": None, "err": None, "confirmationStatus": None}
        provider.answers["getSignatureStatuses"] = context([old])
        assert (await rpc.signature_status(SIGNATURE)).level == "finalized"


@pytest.mark.parametrize("url", ["", "ftp://host/", "host:8899", "http://"])
def test_what_is_no_provider_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        SolanaRpc(url, GENESIS)
