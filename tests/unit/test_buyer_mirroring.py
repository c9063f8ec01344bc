"""An owner signs one approval, of no more than was agreed to, whatever the ledger gives it."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import approve, approve_checked, set_authority, transfer_checked
from spl.token.models import (
    ApproveCheckedParams,
    ApproveParams,
    AuthorityType,
    SetAuthorityParams,
    TransferCheckedParams,
)

from session_ledger.buyer import ApprovalRefused, GrantClient, GrantRefused, KeySigner
from session_ledger.buyer.approval import read_approval
from session_ledger.buyer.mirroring import ROUNDS, ChainLimit, mirror
from session_ledger.challenge import NETWORKS
from session_ledger.sign_in import parse_header, verify

NETWORK = NETWORKS["localnet"]
OWNER = Keypair.from_seed(bytes([1]) * 32)
SPONSOR = Keypair.from_seed(bytes([2]) * 32)
LEDGER = Pubkey(bytes([3]) * 32)
SOURCE = Pubkey(bytes([4]) * 32)
MINT = Pubkey.from_string(NETWORK.usdc_mint)
LIMIT = 2_000_000
NOW = 1_800_000_000


def approval(**changes: Any) -> Instruction:
    parameters = {
        "program_id": TOKEN_PROGRAM_ID,
        "source": SOURCE,
        "mint": MINT,
        "delegate": LEDGER,
        "owner": OWNER.pubkey(),
        "amount": LIMIT,
        "decimals": 6,
        **changes,
    }
    return approve_checked(ApproveCheckedParams(**parameters))


def wire(*instructions: Instruction, payer: Keypair = SPONSOR) -> bytes:
    """A transaction as the ledger gives it: with an empty place for every signature."""
    message = MessageV0.try_compile(payer.pubkey(), list(instructions), [], Hash.default())
    count = message.header.num_required_signatures
    return bytes([count]) + bytes(64 * count) + bytes([0x80]) + bytes(message)


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Ledger:
    """Answers as the routes do, and keeps what it was sent."""

    def __init__(self, transactions: Sequence[str], *, kind: str = "delegate") -> None:
        self.transactions, self.kind = list(transactions), kind
        self.confirmed: list[str] = []
        self.proofs: set[str] = set()
        self.onboards = 0
        self.lowered_again = 0
        self.pending = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/grants/g":
            return httpx.Response(200, json={"enforcedBy": ["server", self.kind]})
        self.proofs.add(request.headers["sign-in-with-x"])
        body = json.loads(request.content)
        assert body["buyer_wallet"] == str(OWNER.pubkey())
        if path.endswith("/confirm"):
            self.confirmed += body["signed_transactions"]
            self.pending -= 1
            status = "pending" if self.pending >= 0 else "ready"
            return httpx.Response(200, json={"success": True, "status": status})
        assert (body["grant_id"], body["network"]) == ("g", "localnet")
        self.onboards += 1
        found: dict[str, Any] = {
            "success": True,
            "status": "ready",
            "funding_source": self.kind,
            "role_details": {"spend_limit_atomic": str(LIMIT)},
        }
        if self.onboards <= self.lowered_again + 1:
            given = [{"type": "approve_delegate", "tx": each} for each in self.transactions]
            found |= {"status": "transactions_required", "transactions": given}
        return httpx.Response(200, json=found)

    def mirror(self, at_most: int = LIMIT) -> ChainLimit:
        client = GrantClient("http://[::1]:8000", transport=httpx.MockTransport(self.answer))
        owner = KeySigner(SigningKey(bytes([1]) * 32))
        return mirror(client, NETWORK, owner, "g", at_most=at_most, clock=lambda: NOW)


@pytest.mark.parametrize("payer", [OWNER, SPONSOR])
def test_the_owner_signs_the_approval_in_its_own_place(payer: Keypair) -> None:
    ledger = Ledger([text(wire(approval(), payer=payer))])
    assert ledger.mirror() == ChainLimit(LIMIT, ("server", "delegate"))
    (signed,) = ledger.confirmed
    transaction = VersionedTransaction.from_bytes(base64.b64decode(signed))
    place = list(transaction.message.account_keys).index(OWNER.pubkey())
    assert transaction.verify_with_results()[place]
    assert place == (0 if payer is OWNER else 1)
    (proof,) = ledger.proofs
    verify(
        parse_header(proof),
        wallet=str(OWNER.pubkey()),
        domains={"::1"},
        chain_references={NETWORK.chain_id.partition(":")[2]},
        now_seconds=NOW,
    )


def miscounted(count: int) -> bytes:
    """An approval whose message claims to hold so many instructions."""
    raw = bytearray(wire(approval()))
    keys = raw[1 + 64 * raw[0] + 4]
    place = 1 + 64 * raw[0] + 5 + 32 * keys + 32
    assert raw[place] == 1
    raw[place] = count
    return bytes(raw)


def without_its_owner() -> bytes:
    """An approval that its owner does not have to sign."""
    given = approval()
    metas = [AccountMeta(meta.pubkey, False, meta.is_writable) for meta in given.accounts]
    return wire(Instruction(given.program_id, bytes(given.data), metas))


MINE = OWNER.pubkey()
TOKENS: dict[str, Any] = {"program_id": TOKEN_PROGRAM_ID}
TAKEN = TransferCheckedParams(
    source=SOURCE, mint=MINT, dest=LEDGER, owner=MINE, amount=1, decimals=6, **TOKENS
)
GIVEN = ApproveParams(source=SOURCE, delegate=LEDGER, owner=MINE, amount=1, **TOKENS)
HANDED_OVER = SetAuthorityParams(
    account=SOURCE,
    authority=AuthorityType.ACCOUNT_OWNER,
    current_authority=MINE,
    new_authority=LEDGER,
    **TOKENS,
)
REFUSED: list[Sequence[bytes]] = [
    [],
    [b""],
    [wire(approval()), wire(approval())],
    [wire(approval(), approval())],
    [miscounted(0)],
    [miscounted(2)],
    [wire(approval(mint=SOURCE))],
    [wire(approval(amount=LIMIT + 1))],
    [wire(approval(owner=LEDGER), approval())],
    [wire(approval(owner=SPONSOR.pubkey()))],
    [wire(approval(program_id=TOKEN_2022_PROGRAM_ID))],
    [without_its_owner()],
    [wire(approval(signers=[SPONSOR.pubkey()]))],
    [wire(transfer_checked(TAKEN))],
    [wire(approve(GIVEN))],
    [wire(set_authority(HANDED_OVER))],
]


@pytest.mark.parametrize("transactions", REFUSED)
def test_anything_else_is_not_signed(transactions: Sequence[bytes]) -> None:
    ledger = Ledger([text(each) for each in transactions])
    with pytest.raises(ApprovalRefused):
        ledger.mirror()
    assert ledger.confirmed == []


def test_what_is_not_base64_is_not_signed() -> None:
    ledger = Ledger(["!"])
    with pytest.raises(ApprovalRefused):
        ledger.mirror()
    assert ledger.confirmed == []


def test_what_would_be_too_much_is_named() -> None:
    ledger = Ledger([text(wire(approval()))])
    with pytest.raises(ApprovalRefused, match=str(LIMIT)) as refused:
        ledger.mirror(LIMIT - 1)
    assert refused.value.amount == LIMIT
    assert ledger.confirmed == []


def test_a_swig_wallets_transactions_are_not_signed_unseen() -> None:
    ledger = Ledger([text(wire(approval()))], kind="swig")
    with pytest.raises(ApprovalRefused, match="Swig"):
        ledger.mirror()
    assert ledger.confirmed == []


def test_a_payment_that_lands_meanwhile_means_another_approval() -> None:
    ledger = Ledger([text(wire(approval()))])
    ledger.lowered_again = 1
    ledger.pending = 1
    assert ledger.mirror().amount == LIMIT
    assert (len(ledger.confirmed), ledger.onboards) == (3, 3)
    ledger = Ledger([text(wire(approval()))])
    ledger.lowered_again = 100
    with pytest.raises(GrantRefused) as refused:
        ledger.mirror()
    assert (refused.value.code, ledger.onboards) == ("pending", ROUNDS)


def test_an_onboarding_that_does_not_go_on_says_why() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        failed = {"success": False, "error": "not_eligible", "detail": "send it some USDC"}
        return httpx.Response(200, json=failed)

    client = GrantClient("http://ledger", transport=httpx.MockTransport(answer))
    with pytest.raises(GrantRefused, match="send it some USDC") as refused:
        mirror(client, NETWORK, KeySigner(bytes([1]) * 32), "g", at_most=LIMIT)
    assert refused.value.code == "not_eligible"


@given(st.integers(0, len(wire(approval())) - 1))
def test_a_part_of_an_approval_is_none(size: int) -> None:
    with pytest.raises(ApprovalRefused):
        read_approval(wire(approval())[:size])


@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_are_read_as_something_that_they_are_not(noise: bytes, place: int) -> None:
    whole = wire(approval())
    for raw in (noise, whole[:place] + noise + whole[place:], whole + noise):
        try:
            found = read_approval(raw)
        except ApprovalRefused:
            continue
        again = VersionedTransaction.from_bytes(found.signed(bytes(64)))
        assert bytes(again) == found.signed(bytes(64))
        (instruction,) = again.message.instructions
        assert again.message.account_keys[instruction.program_id_index] == TOKEN_PROGRAM_ID
        assert bytes(instruction.data[:9]) == bytes([13]) + found.amount.to_bytes(8, "little")
