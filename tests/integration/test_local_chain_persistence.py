"""What survives a restart and a kill -9."""

import os
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chain_fixtures import SOL, buyer, seller, settings
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from spl.token.instructions import get_associated_token_address

from service.local.chain import (
    USDC_DEVNET_MINT,
    LocalChain,
    LocalChainError,
    LocalChainSettings,
)

http: httpx.Client
NEWEST = {"commitment": "processed"}

SERVE = """
import sys
from pathlib import Path
from service.local.chain import LocalChainSettings, run_forever
run_forever(
    LocalChainSettings(data_dir=Path(sys.argv[1]), slot_seconds=0.02, finalized_depth=8),
    on_ready=lambda chain: print(chain.url, flush=True),
)
"""


@pytest.fixture(scope="module", autouse=True)
def _client() -> Iterator[None]:
    """One client for the module: making one costs more than any call."""
    global http
    with httpx.Client() as http:
        yield


def rpc(url: str, method: str, *params: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    answer = http.post(url, json=body).json()
    assert "error" not in answer, answer
    return answer["result"]


def payment(url: str, lamports: int) -> VersionedTransaction:
    blockhash = rpc(url, "getLatestBlockhash", NEWEST)["value"]["blockhash"]
    step = transfer(
        TransferParams(from_pubkey=buyer.pubkey(), to_pubkey=seller.pubkey(), lamports=lamports)
    )
    message = MessageV0.try_compile(buyer.pubkey(), [step], [], Hash.from_string(blockhash))
    return VersionedTransaction(message, [buyer])


def send(url: str, transaction: VersionedTransaction) -> str:
    wire = b64encode(bytes(transaction)).decode()
    return rpc(
        url, "sendTransaction", wire, {"encoding": "base64", "preflightCommitment": "processed"}
    )


def lamports(url: str, key: Pubkey, level: str = "processed") -> int:
    return rpc(url, "getBalance", str(key), {"commitment": level})["value"]


def test_a_restart_continues_where_it_stopped(tmp_path: Path) -> None:
    chain = LocalChain(settings(data_dir=tmp_path))
    url = chain.start()
    rpc(url, "surfnet_setAccount", str(buyer.pubkey()), {"lamports": SOL})
    rpc(url, "surfnet_setTokenAccount", str(seller.pubkey()), str(USDC_DEVNET_MINT), {"amount": 5})
    transaction = payment(url, SOL // 2)
    signature = send(url, transaction)
    stopped_at = rpc(url, "localchain_pause")
    finalized_before = lamports(url, seller.pubkey(), "finalized")
    blockhash = str(transaction.message.recent_blockhash)
    chain.stop()

    chain = LocalChain(settings(data_dir=tmp_path))
    url = chain.start()
    try:
        assert rpc(url, "localchain_pause") > stopped_at
        assert lamports(url, seller.pubkey()) == SOL // 2
        token = get_associated_token_address(seller.pubkey(), USDC_DEVNET_MINT)
        assert rpc(url, "getTokenAccountBalance", str(token))["value"]["amount"] == "5"
        status = rpc(url, "getSignatureStatuses", [signature])["value"][0]
        assert status["err"] is None
        # a young transaction is still not finalized, and its blockhash is still known
        if status["confirmationStatus"] != "finalized":
            assert lamports(url, seller.pubkey(), "finalized") == finalized_before == 0
        assert rpc(url, "isBlockhashValid", blockhash, NEWEST)["value"]
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "sendTransaction",
            "params": [b64encode(bytes(transaction)).decode(), {"encoding": "base64", **NEWEST}],
        }
        body["params"][1]["preflightCommitment"] = "processed"
        refused = http.post(url, json=body).json()
        assert refused["error"]["data"]["err"] == "AlreadyProcessed"
        rpc(url, "localchain_advanceSlots", 8)
        found = rpc(url, "getTransaction", signature, {"maxSupportedTransactionVersion": 0})
        assert found["meta"]["err"] is None
    finally:
        chain.stop()


def test_a_restart_shows_levels_as_they_were(tmp_path: Path) -> None:
    deep = {"data_dir": tmp_path, "finalized_depth": 5_000}
    chain = LocalChain(settings(**deep))
    url = chain.start()
    rpc(url, "surfnet_setAccount", str(buyer.pubkey()), {"lamports": SOL})
    rpc(url, "localchain_pause")  # both in one slot
    send(url, payment(url, SOL // 4))
    send(url, payment(url, SOL // 8))
    chain.stop()
    chain = LocalChain(settings(**deep))
    url = chain.start()
    try:
        assert lamports(url, seller.pubkey()) == SOL // 4 + SOL // 8
        assert lamports(url, seller.pubkey(), "finalized") == 0
        assert lamports(url, buyer.pubkey(), "finalized") == SOL
    finally:
        chain.stop()


class Child:
    """A chain in another process."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(data_dir)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the child did not start"

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def load(
    url: str, amount: int, acknowledged: list[tuple[str, int]], killed: threading.Event
) -> None:
    """Pays ever growing amounts, one after the other, until the chain is killed."""
    while True:
        try:
            acknowledged.append((send(url, payment(url, amount)), amount))
        except httpx.HTTPError:
            assert killed.is_set()
            return
        amount += 1


def test_kill_9_under_load_forgets_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[tuple[str, int]] = []
    newest_slot = 0
    for round_number in range(3):
        child = Child(tmp_path)
        url = child.url
        assert rpc(url, "getSlot", NEWEST) >= newest_slot
        rpc(url, "surfnet_setAccount", str(buyer.pubkey()), {"lamports": 1_000 * SOL})
        killed = threading.Event()

        def load(
            url: str = url, base: int = round_number, killed: threading.Event = killed
        ) -> None:
            for i in range(10_000):
                amount = SOL // 100 + base * 10_000 + i
                try:
                    acknowledged.append((send(url, payment(url, amount)), amount))
                except httpx.HTTPError:
                    assert killed.is_set()
                    return

        worker = threading.Thread(target=load)
        before = len(acknowledged)
        worker.start()
        while len(acknowledged) < before + 25:
            assert worker.is_alive()
        newest_slot = rpc(url, "getSlot", NEWEST)
        killed.set()  # only says that errors are expected from here on; the load goes on
        assert child.end(signal.SIGKILL) == -signal.SIGKILL
        worker.join(10)

    child = Child(tmp_path)
    try:
        url = child.url
        assert len(acknowledged) >= 75
        landed = 0
        for start in range(0, len(acknowledged), 256):
            batch = [signature for signature, _ in acknowledged[start : start + 256]]
            history = {"searchTransactionHistory": True}
            statuses = rpc(url, "getSignatureStatuses", batch, history)["value"]
            assert all(status is not None and status["err"] is None for status in statuses)
            landed += len(batch)
        total = sum(amount for _, amount in acknowledged)
        # at most one payment per kill landed without its acknowledgement having arrived
        extra = lamports(url, seller.pubkey()) - total
        assert 0 <= extra <= 3 * (SOL // 100 + 40_000)
    finally:
        assert child.end(signal.SIGTERM) == 0


def test_one_directory_belongs_to_one_process_and_one_network(tmp_path: Path) -> None:
    chain = LocalChain(settings(data_dir=tmp_path))
    chain.start()
    try:
        child = subprocess.run(
            [sys.executable, "-c", SERVE, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert child.returncode != 0
        assert "LocalChainError" in child.stderr
        assert "locked" in child.stderr
    finally:
        chain.stop()
    with pytest.raises(LocalChainError, match="genesis hash"):
        LocalChain(settings(data_dir=tmp_path, network="devnet")).start()


def test_what_is_no_chain_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite3").write_bytes(b"not a database, but long enough to be one" * 100)
    with pytest.raises(LocalChainError, match="cannot open"):
        LocalChain(settings(data_dir=tmp_path)).start()


def test_a_program_is_loaded_from_its_file(tmp_path: Path) -> None:
    """The code of the memo program, served under another address."""
    memo = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
    code = LiteSVM().get_account(memo)
    assert code is not None
    file, address = tmp_path / "memo.so", Pubkey.from_bytes(bytes([6] * 32))
    file.write_bytes(code.data)
    chain = LocalChain(LocalChainSettings(programs={address: file}))
    url = chain.start()
    try:
        shown = rpc(url, "getAccountInfo", str(address), {"encoding": "base64"})["value"]
        assert shown["executable"]
    finally:
        chain.stop()
    with pytest.raises(LocalChainError, match="cannot load program"):
        LocalChain(LocalChainSettings(programs={address: tmp_path / "missing.so"})).start()
