"""The reference SDK itself (@dexterai/mpp), unmodified, pays through the service.

The package is not installable everywhere, so the test wants its built directory:
`DEXTER_MPP=DIR pytest tests/e2e/test_dexter_sdk.py`, where DIR holds `dist` and `node_modules`.
Without it `test_mpp_sessions_sdk.py` still plays the same calls with a client of our own.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import javascript
import pytest
from running import PRICE, USDC, Buyer, Service, running, seed

NODE_DIR = Path(__file__).parents[1] / "node"
PAYMENTS = 100
DEPOSIT = 2 * USDC

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def node() -> str:
    if not os.environ.get("DEXTER_MPP"):
        pytest.skip("REFERENCE SDK NOT RUN: set DEXTER_MPP to the built @dexterai/mpp package")
    return javascript.node("REFERENCE SDK")


@pytest.fixture(scope="module")
def devnet() -> Iterator[Service]:
    """The SDK knows devnet and mainnet-beta only; the local chain stands in for devnet."""
    with running("--local-chain", SOLANA_NETWORK="devnet") as started:
        yield started


def described(buyer: Buyer) -> dict[str, str]:
    return {"address": buyer.address, "seed": seed(buyer.name).hex()}


@pytest.fixture(scope="module")
def played(node: str, devnet: Service) -> tuple[Service, dict[str, Any], dict[str, Any]]:
    sellers = [devnet.seller("sdk seller") for _ in range(3)]
    buyers = [devnet.buyer("sdk buyer") for _ in range(3)]
    for seller in sellers:
        devnet.chain.receive(seller.wallet)
    for buyer in buyers:
        # USDC alone: the SDK's buyers need no SOL.
        mint = str(devnet.chain.mint)
        devnet.chain.call("surfnet_setTokenAccount", buyer.address, mint, {"amount": 10 * USDC})
    parties = [
        {
            "buyer": described(buyer),
            "seller": {"recipient": seller.facts["recipient"], "apiKey": seller.token},
        }
        for buyer, seller in zip(buyers, sellers, strict=True)
    ]
    config = {
        "apiUrl": devnet.url,
        "rpcUrl": devnet.facts["rpcUrl"],
        "network": "devnet",
        "price": str(PRICE),
        "payments": PAYMENTS,
        "deposit": str(DEPOSIT),
        "spendLimit": str(5 * USDC),
        "sessions": [
            {**parties[0], "kind": "keyPair"},
            {**parties[1], "kind": "callbacks"},
        ],
        "charge": parties[2],
    }
    done = subprocess.run(
        [node, "dexter.mjs", json.dumps(config)],
        cwd=NODE_DIR,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    balances = {
        "sellers": [devnet.chain.balance(seller.wallet) for seller in sellers],
        "buyers": [devnet.chain.balance(buyer.wallet) for buyer in buyers],
    }
    return devnet, json.loads(done.stdout), balances


@pytest.mark.parametrize("kind", [0, 1], ids=["key pair", "callbacks"])
def test_a_buyer_onboards_pays_a_hundred_times_and_closes(
    played: tuple[Service, dict[str, Any], dict[str, Any]], kind: int
) -> None:
    _, seen, balances = played
    session = seen["sessions"][kind]
    assert session["onboarded"]["status"] == session["again"]["status"] == "ready"
    assert session["onboarded"]["swigAddress"] == session["again"]["swigAddress"]
    assert session["verdicts"] == [[True, str(PRICE), True]] * PAYMENTS
    assert session["watermark"] == str(PAYMENTS * PRICE)
    settlement = session["closed"]["settlement"]
    assert settlement["amount_settled"] == str(PAYMENTS * PRICE)
    assert settlement["buyer_refund"] == str(DEPOSIT - PAYMENTS * PRICE)
    assert settlement["voucher_count"] == PAYMENTS
    assert settlement["session_duration_seconds"] >= 0
    assert session["once_more"] == session["closed"]
    assert session["late"]["code"] == "channel_already_closed"
    assert balances["sellers"][kind] == PAYMENTS * PRICE
    assert balances["buyers"][kind] == 10 * USDC - PAYMENTS * PRICE


def test_a_charge_through_mppx_is_settled_once_and_receipted(
    played: tuple[Service, dict[str, Any], dict[str, Any]],
) -> None:
    _, seen, balances = played
    assert seen["charged"]["status"] == 200, seen["charged"]
    assert json.loads(seen["charged"]["body"]) == {"served": True}
    assert seen["charged"]["receipt"]
    assert balances["sellers"][2] == PRICE
    assert balances["buyers"][2] == 10 * USDC - PRICE


def test_a_status_without_a_proof_is_refused_as_the_sdk_reads_it(
    played: tuple[Service, dict[str, Any], dict[str, Any]],
) -> None:
    _, seen, _ = played
    assert seen["unproven"]["code"] == "sign_in_required"
    assert seen["unproven"]["message"]
