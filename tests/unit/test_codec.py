"""Stored JSON: made once, the same everywhere, and read back to the same value."""

import dataclasses
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from service.domain import events as e
from service.domain.codec import canonical, from_json, to_json
from service.domain.errors import Corrupt
from service.domain.terms import Limits, Terms
from service.domain.units import AtomicUsdc, UnixMillis

TERMS = Terms(
    channel_id="ch_é\u2028",
    seller_id="slr_1",
    payer="p",
    recipient="r",
    network="localnet",
    mint="m",
    decimals=6,
    deposit=AtomicUsdc(2**64 - 1),
    limits=Limits(max_increment=AtomicUsdc(5)),
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.text(st.characters(min_codepoint=32, max_codepoint=126))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_canonical_bytes_are_those_of_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


def test_an_amount_is_a_string_and_every_field_is_present() -> None:
    document = to_json(TERMS)
    assert document["deposit"] == "18446744073709551615"
    assert document["limits"] == {
        "maxIncrement": "5",
        "maxCumulative": None,
        "maxVouchers": None,
    }
    assert len(document) == len(dataclasses.fields(Terms))


def test_what_was_written_is_read_back() -> None:
    event = e.SessionOpened(at=UnixMillis(1), terms=TERMS)
    assert from_json(e.SessionOpened, to_json(event)) == event


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("channelId", 5), ("decimals", "6"), ("decimals", True), ("deposit", "x"), ("limits", [])],
)
def test_a_stored_field_of_another_form_is_corrupt(field: str, wrong: object) -> None:
    with pytest.raises(Corrupt):
        from_json(Terms, {**to_json(TERMS), field: wrong})


def test_a_missing_stored_field_is_corrupt() -> None:
    document = to_json(TERMS)
    del document["payer"]
    with pytest.raises(Corrupt, match="payer"):
        from_json(Terms, document)


@pytest.mark.parametrize("value", ["\ud800", {1, 2}, 2**64, TERMS])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(Corrupt):
        canonical({"value": value})


def test_no_event_can_hold_a_float() -> None:
    """Python writes floats unlike RFC 8785, so the fields' types keep them out."""
    with pytest.raises(TypeError, match="no JSON form"):
        to_json(_Floating(1.0))


@dataclasses.dataclass(frozen=True)
class _Floating:
    value: float
