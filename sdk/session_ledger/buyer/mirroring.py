"""Limiting the chain to a grant: the owner approves exactly what its grants allow, and no more."""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from session_ledger.buyer.approval import read_approval
from session_ledger.buyer.errors import ApprovalRefused, GrantRefused
from session_ledger.challenge import Network
from session_ledger.json_text import JsonValue
from session_ledger.sign_in import build_for

if TYPE_CHECKING:
    from session_ledger.buyer.session import GrantClient, Signer

ROUNDS: Final = 3
"""A payment that lands meanwhile makes the approval too high: then another one is asked for."""
_CONFIRMS: Final = 3
_MILLIS: Final = 1_000
_DELEGATE: Final = "delegate"


@dataclass(frozen=True, slots=True)
class ChainLimit:
    """What the chain lets the ledger take of the wallet, in atomic units, and who enforces the
    grant: `server`, and the chain by `delegate` or `swig`."""

    amount: int
    enforced_by: tuple[str, ...]


def mirror(
    ledger: "GrantClient",
    network: Network,
    owner: "Signer",
    identity: str,
    *,
    at_most: int,
    clock: Callable[[], float] = time.time,
) -> ChainLimit:
    """Have the chain let the ledger take what the wallet's grants still allow and what it owes,
    and nothing else. The owner signs a sign-in and an approval, after it was read. May be repeated.

    Raises:
        ApprovalRefused: it would be more than `at_most`, or something else than an approval.
        GrantRefused: the ledger refused, gave no answer, or `pending`: mirror again.
    """
    now = round(clock() * _MILLIS)
    proof = build_for(
        owner.address, owner.sign, domain=ledger.host, chain_id=network.chain_id, now_millis=now
    )
    asked: dict[str, JsonValue] = {
        "buyer_wallet": owner.address,
        "network": network.name,
        "grant_id": identity,
    }
    for _ in range(ROUNDS):
        answer = ledger.onboard(asked, proof)
        if answer.get("status") == "ready":
            found = ledger.show(identity).get("enforcedBy")
            names = found if isinstance(found, list) else []
            return ChainLimit(_limit(answer), tuple(str(name) for name in names))
        signed = _signed(answer, network, owner, at_most)
        _confirmed(ledger, {"buyer_wallet": owner.address, "signed_transactions": signed}, proof)
    raise GrantRefused("payments of the wallet land meanwhile; mirror again", "pending", 0)


def _signed(
    answer: Mapping[str, JsonValue], network: Network, owner: "Signer", at_most: int
) -> list[JsonValue]:
    """The transaction that the ledger gave, signed, if it says what was asked for."""
    if answer.get("funding_source") != _DELEGATE:
        raise ApprovalRefused(
            "the ledger pays out of a Swig wallet, whose roles are changed in a Swig app: "
            "onboard there with this grant"
        )
    match answer.get("transactions"):
        case [{"tx": str(text)}]:
            pass
        case _:
            raise ApprovalRefused("the ledger gives something else to sign than one approval")
    try:
        approval = read_approval(base64.b64decode(text, validate=True))
    except ValueError:
        raise ApprovalRefused("what the ledger gives to sign is not base64") from None
    if (approval.owner, approval.mint) != (owner.address, network.usdc_mint):
        raise ApprovalRefused("the ledger gives another wallet's approval to sign, or another mint")
    if approval.amount > at_most:
        raise ApprovalRefused(
            f"the chain would have to allow {approval.amount} for all that the wallet's grants "
            f"allow and its sellers are owed; at most {at_most} was agreed to",
            approval.amount,
        )
    return [base64.b64encode(approval.signed(owner.sign(approval.message))).decode()]


def _confirmed(ledger: "GrantClient", body: Mapping[str, JsonValue], proof: str) -> None:
    for _ in range(_CONFIRMS):
        answer = ledger.confirm(body, proof)
        if answer.get("status") == "ready":
            return
    raise GrantRefused("the approval is on its way; mirror again in a moment", "pending", 0)


def _limit(answer: Mapping[str, JsonValue]) -> int:
    match answer.get("role_details"):
        case {"spend_limit_atomic": str(text)} if text.isdecimal():
            return int(text)
        case _:
            raise GrantRefused("the ledger does not say what it may take", "unknown", 0)
