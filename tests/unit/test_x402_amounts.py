"""Amounts of x402 are exact in both directions, and networks are known by all their names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_ledger.challenge import NETWORKS
from session_ledger.x402.amounts import (
    U64_MAX,
    AmountError,
    from_atomic_units,
    to_atomic_units,
)
from session_ledger.x402.networks import caip2, network_of, v1_name


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0.01", 10_000),
        ("0.10", 100_000),
        ("1.00", 1_000_000),
        ("10.00", 10_000_000),
        ("0", 0),
        ("7", 7_000_000),
        ("1.005", 1_005_000),  # 1.005 * 1e6 is 1004999.9999999999 with doubles
        ("0.000001", 1),
        ("9007199254.740993", 9_007_199_254_740_993),  # 2^53 + 1 is no double
        ("18446744073709.551615", U64_MAX),
    ],
)
def test_a_price_is_exact_in_atomic_units(text: str, units: int) -> None:
    assert to_atomic_units(text) == units


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "1.", ".5", "-1", "+1", "1e-7", "1e6", "0x10", "1_000", "1,000", "01", "00",
        " 1", "1 ", "1\n", "١", "NaN", "Infinity", "$1", "0.0000001", "1.0000000",
        "18446744073709.551616", "9" * 600, "9" * 5_000,
    ],
)  # fmt: skip
def test_a_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        to_atomic_units(text)


@given(st.integers(0, U64_MAX), st.integers(0, 255))
def test_the_two_directions_are_inverse_at_any_number_of_decimals(
    units: int, decimals: int
) -> None:
    text = from_atomic_units(units, decimals)
    assert to_atomic_units(text, decimals) == units
    assert text == "0" or not text.endswith(".")
    assert "." not in text or not text.endswith("0")


@given(st.text(max_size=600), st.integers())
def test_no_text_raises_anything_but_the_modules_own_error(text: str, decimals: int) -> None:
    try:
        units = to_atomic_units(text, decimals)
    except AmountError:
        return
    assert 0 <= units <= U64_MAX


@pytest.mark.parametrize("units", [-1, U64_MAX + 1])
def test_units_that_no_token_account_can_hold_have_no_text(units: int) -> None:
    with pytest.raises(AmountError):
        from_atomic_units(units)


@pytest.mark.parametrize("decimals", [-1, 256])
def test_decimals_that_no_mint_has_are_refused(decimals: int) -> None:
    with pytest.raises(AmountError):
        to_atomic_units("1", decimals)
    with pytest.raises(AmountError):
        from_atomic_units(1, decimals)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("localnet", "localnet"),
        ("solana-localnet", "localnet"),
        ("devnet", "devnet"),
        ("solana-devnet", "devnet"),
        ("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "devnet"),
        ("mainnet-beta", "mainnet-beta"),
        ("mainnet", "mainnet-beta"),
        ("solana", "mainnet-beta"),
        ("solana-mainnet", "mainnet-beta"),
        ("solana-mainnet-beta", "mainnet-beta"),
        ("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "mainnet-beta"),
    ],
)
def test_a_network_is_known_by_each_of_its_names(name: str, network: str) -> None:
    assert network_of(name) is NETWORKS[network]


@pytest.mark.parametrize(
    "name", ["", "Devnet", "solana-testnet", "testnet", "solana:", "base-sepolia", " devnet"]
)
def test_another_name_is_no_network(name: str) -> None:
    assert network_of(name) is None


def test_the_names_of_a_network_lead_back_to_it() -> None:
    assert [v1_name(network) for network in NETWORKS.values()] == [
        "solana",
        "solana-devnet",
        "solana-localnet",
    ]
    for network in NETWORKS.values():
        assert caip2(network) == network.chain_id
        assert network_of(v1_name(network)) is network_of(caip2(network)) is network
