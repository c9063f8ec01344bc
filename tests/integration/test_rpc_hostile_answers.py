"""The RPC adapter against a provider that answers anything: an answer or `ChainUnavailable`."""

import asyncio
import base64
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from settlement_rig import AMOUNT, FEE_PAYER, MINT, SOURCE, keypair
from solders.hash import Hash
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from service.adapters.solana.accounts import HEAD_BYTES
from service.adapters.solana.rpc import SolanaRpc
from service.adapters.solana.shared_reads import SharedReads
from service.domain.errors import ChainUnavailable
from service.domain.onchain import Commitment

CALLED = "11111111111111111111111111111111"
GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
PAYER_KEY = keypair("fee payer")
TRANSACTION = VersionedTransaction(
    MessageV0.try_compile(PAYER_KEY.pubkey(), [], [], Hash.default()), [PAYER_KEY]
)
RAW = bytes(TRANSACTION)
SIGNATURE = str(TRANSACTION.signatures[0])


def context(value: Any) -> dict[str, Any]:
    return {"context": {"slot": 900, "apiVersion": "2.2.0"}, "value": value}


def balance(index: int, amount: int) -> dict[str, Any]:
    return {"accountIndex": index, "mint": MINT, "uiTokenAmount": {"amount": str(amount)}}


HONEST: dict[str, Any] = {
    "getGenesisHash": GENESIS,
    "getLatestBlockhash": context({"blockhash": GENESIS, "lastValidBlockHeight": 850}),
    "getBlockHeight": 700,
    "getFirstAvailableBlock": 0,
    "getEpochInfo": {"blockHeight": 668, "absoluteSlot": 868},
    "getBalance": context(10**9),
    "getAccountInfo": context(
        {
            "owner": "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
            "data": [base64.b64encode(bytes(165)).decode(), "base64"],
            "lamports": 1,
        }
    ),
    "simulateTransaction": context(
        {
            "err": None,
            "logs": ["a line"],
            "unitsConsumed": 5,
            "innerInstructions": [
                {"index": 2, "instructions": [{"programId": CALLED, "stackHeight": 2}]}
            ],
        }
    ),
    "sendTransaction": SIGNATURE,
    "getSignatureStatuses": context(
        [{"slot": 880, "confirmations": 3, "err": None, "confirmationStatus": "confirmed"}]
    ),
    "getTransaction": {
        "slot": 880,
        "transaction": [base64.b64encode(RAW).decode(), "base64"],
        "meta": {
            "err": None,
            "logMessages": ["a line"],
            "preTokenBalances": [balance(0, AMOUNT)],
            "postTokenBalances": [balance(0, 0)],
        },
    },
}
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
BAD_VALUES = [None, "x", "", -1, 1.5, True, 2**70, [], {}, [None], {"err": 1}, "9" * 5_000]


class Refused:
    """An answer that is an error of this code."""

    def __init__(self, code: int) -> None:
        self.code = code


class Provider:
    """Answers honestly but for `answers`, which may depend on the parameters; `raw` replaces a
    whole HTTP response. `asked` has the parameters of every request by method."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: dict[str, list[Any]] = {}
        self.raw: dict[str, bytes] = {}
        self.members: dict[str, dict[str, Any]] = {}
        self.delay: dict[str, float] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                method = request["method"]
                self.asked.setdefault(method, []).append(request["params"])
                await asyncio.sleep(self.delay.get(method, 0))
                if method in self.raw:
                    writer.write(self.raw[method])
                    break
                result = self.answers.get(method, HONEST.get(method))
                if callable(result):
                    result = result(request["params"])
                body: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
                if isinstance(result, Refused):
                    body["error"] = {"code": result.code, "message": "no"}
                else:
                    body["result"] = result
                body |= self.members.get(method, {})
                writer.write(http(json.dumps(body).encode()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Provider, SolanaRpc]]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rpc = SolanaRpc(f"http://127.0.0.1:{port}/?key=hidden-key", GENESIS, timeout_seconds=0.3)
    try:
        yield provider, rpc
    finally:
        await rpc.close()
        server.close()
        await server.wait_closed()


def corruptions(value: Any) -> Iterator[Any]:
    """The value with each of its members replaced by each bad value, and each left out."""
    yield from BAD_VALUES
    if not isinstance(value, dict | list):
        return
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        inner = value[key]
        for bad in corruptions(inner):
            changed = copy.deepcopy(value)
            changed[key] = bad
            yield changed
        shorter = copy.deepcopy(value)
        del shorter[key]
        yield shorter


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


# --- readings that are shared ---------------------------------------------------------------

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
