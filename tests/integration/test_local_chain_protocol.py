"""JSON-RPC itself: malformed input, batches, error codes, injected faults, HTTP."""

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from chain_fixtures import (
    SOL,
    Rig,
    RpcRefusal,
    buyer,
    chain_fixture,  # noqa: F401 - a fixture
    rig_fixture,  # noqa: F401 - a fixture
    seller,
    settings,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.message import MessageV0, to_bytes_versioned
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from service.local.chain import LocalChain, LocalChainError, LocalChainSettings
from service.local.chain.rpc import METHODS

ADDRESS = str(buyer.pubkey())


@pytest.fixture(name="shared", scope="module")
def shared_fixture() -> Iterator[httpx.Client]:
    """A client of one chain, for the tests that cannot disturb each other."""
    chain = LocalChain(settings())
    chain.start()
    with httpx.Client(base_url=chain.url) as client:
        yield client
    chain.stop()


def ask(client: httpx.Client, body: bytes) -> Any:
    return client.post("/", content=body).json()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"1", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"getSlot"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"getSlot"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"getSlot","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}', -32601),
    ],
)
def test_malformed_requests_get_the_code_of_the_specification(
    shared: httpx.Client, body: bytes, code: int
) -> None:
    assert ask(shared, body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("getBalance", []),
        ("getBalance", ["short"]),
        ("getBalance", [ADDRESS, {"commitment": "recent"}]),
        ("getBalance", [ADDRESS, []]),
        ("getAccountInfo", [ADDRESS, {"encoding": "hex"}]),
        ("getAccountInfo", [ADDRESS, {"dataSlice": {"offset": -1}}]),
        ("getMultipleAccounts", [[ADDRESS] * 101]),
        ("getSignatureStatuses", [["1" * 64] * 257]),
        ("getTokenAccountBalance", [ADDRESS]),
        ("getTokenSupply", [ADDRESS]),
        ("getTokenAccountsByOwner", [ADDRESS, {}]),
        ("getTokenAccountsByOwner", [ADDRESS, {"programId": ADDRESS}]),
        ("getProgramAccounts", [ADDRESS, {"filters": [{}]}]),
        ("getProgramAccounts", [ADDRESS, {"filters": [{"dataSize": 1}] * 5}]),
        ("sendTransaction", ["", {"encoding": "base64"}]),
        ("sendTransaction", ["!!", {"encoding": "base64"}]),
        ("sendTransaction", ["0OIl"]),
        ("sendTransaction", ["1" * 2_000]),
        ("sendTransaction", [b64encode(bytes(2_000)).decode(), {"encoding": "base64"}]),
        ("getBlocks", [0, 10**9]),
        ("requestAirdrop", [ADDRESS, 0]),
        ("getMinimumBalanceForRentExemption", [True]),
        ("surfnet_setAccount", [ADDRESS, {"data": "zz"}]),
        ("surfnet_setAccount", [ADDRESS, {"lamports": 2**64}]),
        ("surfnet_setAccount", [ADDRESS, {"lamports": 1, "data": "00", "executable": True}]),
        ("isBlockhashValid", ["0"]),
        ("isBlockhashValid", [""]),
        ("localchain_advanceSlots", [-1]),
        ("localchain_injectFault", [{"method": "getSlot", "kind": "drop"}]),
    ],
)
def test_parameters_out_of_bounds_are_invalid_params(
    shared: httpx.Client, method: str, params: list[Any]
) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    assert ask(shared, json.dumps(body).encode())["error"]["code"] == -32602


def test_a_batch_is_answered_in_order_without_its_notifications(shared: httpx.Client) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": "a", "method": "getHealth"},
        {"jsonrpc": "2.0", "method": "getHealth"},
        {"jsonrpc": "2.0", "id": 2, "method": "noSuchMethod"},
        7,
    ]
    answers = ask(shared, json.dumps(batch).encode())
    assert [(a.get("id"), a.get("result"), a.get("error", {}).get("code")) for a in answers] == [
        ("a", "ok", None),
        (2, None, -32601),
        (None, None, -32600),
    ]


async def test_a_level_behind_the_asked_slot_says_so(rig: Rig) -> None:
    slot = await rig.pause()
    await rig.rpc("getBalance", ADDRESS, {"minContextSlot": slot, "commitment": "processed"})
    with pytest.raises(RpcRefusal) as refusal:
        await rig.rpc("getBalance", ADDRESS, {"minContextSlot": slot})
    assert refusal.value.code == -32016
    assert refusal.value.data["contextSlot"] < slot


async def test_an_oversized_body_is_refused(rig: Rig) -> None:
    response = await rig.http.post("/", content=b" " * (5 * 2**20))
    assert response.status_code == 413


async def test_health_and_browsers_are_served_like_on_a_validator(rig: Rig) -> None:
    assert (await rig.http.get("/health")).text == "ok"
    body = {"jsonrpc": "2.0", "id": 1, "method": "getHealth"}
    response = await rig.http.post("/", json=body, headers={"Origin": "http://wallet.test"})
    assert response.headers["access-control-allow-origin"] == "*"


async def payment(rig: Rig) -> Any:
    await rig.fund(buyer.pubkey())
    step = transfer(
        TransferParams(from_pubkey=buyer.pubkey(), to_pubkey=seller.pubkey(), lamports=SOL // 2)
    )
    return await rig.sign(step, signers=[buyer])


async def test_a_timeout_after_forwarding_lands_the_transaction_unanswered(rig: Rig) -> None:
    transaction = await payment(rig)
    fault = {"method": "sendTransaction", "kind": "timeout"}
    await rig.rpc("localchain_injectFault", fault)
    options = {"encoding": "base64", "skipPreflight": True}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "sendTransaction",
        "params": [b64encode(bytes(transaction)).decode(), options],
    }
    with pytest.raises(httpx.ReadTimeout):
        await rig.http.post("/", json=body, timeout=0.3)
    assert await rig.lamports(seller.pubkey()) == SOL // 2


async def test_a_timeout_before_forwarding_and_a_drop_lose_the_transaction(rig: Rig) -> None:
    transaction = await payment(rig)
    await rig.rpc("localchain_injectFault", {"method": "sendTransaction", "kind": "drop"})
    assert await rig.post(transaction) == transaction.signatures[0]
    assert await rig.status(transaction.signatures[0]) is None
    lost = {"method": "sendTransaction", "kind": "timeout", "forwarded": False}
    await rig.rpc("localchain_injectFault", lost)
    rig.http.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        await rig.post(transaction)
    rig.http.timeout = httpx.Timeout(5)
    assert await rig.status(transaction.signatures[0]) is None
    await rig.post(transaction)  # both faults have struck: the third time it lands
    assert await rig.lamports(seller.pubkey()) == SOL // 2


async def test_error_faults_strike_as_often_as_told(rig: Rig) -> None:
    fault = {"method": "getSlot", "kind": "error", "count": 2, "code": -32005}
    await rig.rpc("localchain_injectFault", fault)
    for _ in range(2):
        with pytest.raises(RpcRefusal) as refusal:
            await rig.rpc("getSlot")
        assert refusal.value.code == -32005
    await rig.rpc("getSlot")
    await rig.rpc("localchain_injectFault", {**fault, "httpStatus": 429})
    body = {"jsonrpc": "2.0", "id": 1, "method": "getSlot"}
    assert (await rig.http.post("/", json=body)).status_code == 429
    await rig.rpc("localchain_clearFaults")
    await rig.rpc("getSlot")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=60)
    | st.sampled_from([ADDRESS, "finalized", "base64", "jsonParsed", str(2**64)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["commitment", "encoding", "mint", "filters", "dataSlice", "amount"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@pytest.fixture(name="fuzzed", scope="module")
def fuzzed_fixture() -> Iterator[httpx.Client]:
    chain = LocalChain(settings())
    chain.start()
    with httpx.Client(base_url=chain.url) as client:
        yield client
    chain.stop()


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from([*METHODS, "localchain_injectFault"]),
    params=st.lists(json_values, max_size=4),
)
def test_no_parameters_make_a_method_fail_inside(
    fuzzed: httpx.Client, method: str, params: list[Any]
) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    response = fuzzed.post("/", content=json.dumps(body).encode("utf-8", "surrogatepass"))
    if response.status_code == 200:  # else one of the faults that it injected itself
        assert response.json().get("error", {}).get("code") != -32603, response.text


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["sendTransaction", "simulateTransaction", "getFeeForMessage"]),
    edits=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_no_damaged_transaction_makes_a_method_fail_inside(
    fuzzed: httpx.Client, method: str, edits: list[tuple[int, int]]
) -> None:
    step = transfer(
        TransferParams(from_pubkey=buyer.pubkey(), to_pubkey=seller.pubkey(), lamports=SOL)
    )
    message = MessageV0.try_compile(buyer.pubkey(), [step], [], Hash.default())
    signed = bytes(VersionedTransaction(message, [buyer]))
    wire = bytearray(bytes(to_bytes_versioned(message)) if method == "getFeeForMessage" else signed)
    for place, value in edits:
        wire[place % len(wire)] = value
    options: dict[str, Any] = {"encoding": "base64"}
    if method == "simulateTransaction":
        options["replaceRecentBlockhash"] = True
    params = [b64encode(wire).decode(), options]
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    response = fuzzed.post("/", json=body)
    if response.status_code == 200:  # else a fault that the other test left behind
        assert response.json().get("error", {}).get("code") != -32603, response.text


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(LocalChainError):
        LocalChainSettings(confirmed_depth=5, finalized_depth=4)
    with pytest.raises(LocalChainError):
        LocalChainSettings(slot_seconds=0)
    with pytest.raises(LocalChainError, match="unknown network"):
        LocalChain(LocalChainSettings(network="moon")).start()


def test_a_taken_port_is_named(chain: LocalChain) -> None:
    port = int(chain.url.rsplit(":", 1)[1])
    with pytest.raises(LocalChainError, match=str(port)):
        LocalChain(LocalChainSettings(port=port)).start()


async def test_a_blocked_event_loop_of_the_caller_does_not_stall_the_chain(rig: Rig) -> None:
    """The synchronous client blocks this loop until the chain, in its own, has answered."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "getHealth"}
    response = httpx.post(rig.chain.url, json=body, timeout=5)
    assert response.json()["result"] == "ok"
