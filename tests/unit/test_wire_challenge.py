"""The 402 challenge and the table of networks."""

from typing import Any

import pytest

from session_ledger.challenge import (
    CHANNEL_PROGRAM,
    NETWORKS,
    Challenge,
    ChallengeError,
    parse_challenge,
)
from session_ledger.encoding import base58_decode

RECIPIENT = "BELn9TCk4uWEihwdgoUx8xUfd5ujL9pKrwtJCesiQAev"


def challenge(**changes: Any) -> dict[str, Any]:
    made = Challenge.of(recipient=RECIPIENT, network="devnet", price_per_unit=10_000)
    return {**made.to_json(), **changes}


def test_has_exactly_the_documented_members() -> None:
    assert challenge() == {
        "type": "mpp-session",
        "recipient": RECIPIENT,
        "network": "devnet",
        "pricePerUnit": "10000",
        "meter": "request",
        "suggestedDeposit": "1000000",
        "channelProgram": "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB",
        "chainId": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
    }


def test_the_suggested_deposit_is_exact_above_u64() -> None:
    made = Challenge.of(recipient=RECIPIENT, network="localnet", price_per_unit=2**64 - 1)
    assert made.to_json()["suggestedDeposit"] == "1844674407370955161500"
    assert parse_challenge(made.to_json()) == made


def test_a_sellers_own_deposit_and_nonce_are_kept() -> None:
    made = Challenge.of(
        recipient=RECIPIENT,
        network="mainnet-beta",
        price_per_unit=0,
        meter="tokens",
        suggested_deposit=7,
        server_nonce="n-1",
    )
    assert made.to_json()["suggestedDeposit"] == "7"
    assert made.to_json()["serverNonce"] == "n-1"
    assert parse_challenge(made.to_json()) == made


def test_the_local_chain_has_an_id_of_its_own() -> None:
    ids = {network.chain_id for network in NETWORKS.values()}
    assert len(ids) == len(NETWORKS) == 3
    assert NETWORKS["localnet"].chain_id == "solana:Ac1bbcrZLVhFAeuev2LKY7CzyUtVrg7X"
    for network in NETWORKS.values():
        assert len(network.chain_id) == len("solana:") + 32
        assert len(base58_decode(network.usdc_mint)) == 32
    assert len(base58_decode(CHANNEL_PROGRAM)) == 32


def test_a_challenge_for_an_unknown_network_cannot_be_made() -> None:
    with pytest.raises(ChallengeError, match="network must be one of mainnet-beta, devnet"):
        Challenge.of(recipient=RECIPIENT, network="testnet", price_per_unit=1)


def test_reads_a_reference_challenge_which_has_no_chain_id() -> None:
    body = challenge()
    del body["chainId"]
    assert parse_challenge(body).chain_id == NETWORKS["devnet"].chain_id


def test_reads_a_network_that_is_not_in_the_table_by_its_chain_id() -> None:
    body = challenge(network="testnet", chainId="solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z")
    assert parse_challenge(body).chain_id == "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": "session"}, "type"),
        ({"recipient": "  "}, "recipient"),
        ({"recipient": None}, "recipient"),
        ({"network": 5}, "network"),
        ({"network": "testnet", "chainId": None}, "chainId"),
        ({"chainId": NETWORKS["mainnet-beta"].chain_id}, "chainId"),
        ({"chainId": []}, "chainId"),
        ({"pricePerUnit": 10_000}, "pricePerUnit"),
        ({"pricePerUnit": "-1"}, "pricePerUnit"),
        ({"pricePerUnit": "010"}, "pricePerUnit"),
        ({"pricePerUnit": "१"}, "pricePerUnit"),
        ({"pricePerUnit": str(2**64)}, "pricePerUnit"),
        ({"suggestedDeposit": "1e3"}, "suggestedDeposit"),
        ({"suggestedDeposit": "9" * 5_000}, "suggestedDeposit"),
        ({"meter": {}}, "meter"),
        ({"channelProgram": None}, "channelProgram"),
        ({"serverNonce": 1}, "serverNonce"),
    ],
)
def test_refuses_a_malformed_challenge_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ChallengeError, match=field):
        parse_challenge(challenge(**changes))


@pytest.mark.parametrize("value", [None, 5, "x", [], {}])
def test_refuses_what_is_no_object(value: Any) -> None:
    with pytest.raises(ChallengeError, match="type must be mpp-session"):
        parse_challenge(value)
