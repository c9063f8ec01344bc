"""Endpoints of the server under test: a direct payment verified with the chain at hand, and not.

The server process makes the answer of `getTransaction` itself, as a provider sends it, and reads it
with the service's own adapter; everything else is the service's.
"""

import base64
import json
import time
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import get_associated_token_address, transfer_checked
from spl.token.models import TransferCheckedParams
from vouchers import PRICE, address

from service.adapters.solana.observed import observed
from service.api.dependencies import calling_seller, wired
from service.api.x402.payments import verify_payment
from service.application.accept_payment import AcceptPayment
from service.bootstrap import Services
from service.domain.direct_events import PaymentAccepted
from service.domain.observed import ObservedTransaction
from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_decode

VERIFY_PATH = "/benchmark/direct-verify"
OFF_PATH = "/benchmark/direct-off"
NAME, MEMO = "direct", "order 7"
"""The seller's name, from which its recipient follows, and its memo."""
PAYER, RECIPIENT = address("direct payer"), address(NAME)
MINT = NETWORKS["localnet"].usdc_mint
_SLOT = 500


async def verify(request: Request) -> Response:
    """The route's own code on an answer of the chain that is there already."""
    return await _called(request, _accept_of(wired(request)))


async def verification_off(request: Request) -> Response:
    """The same code with nothing verified."""
    return await _called(request, _Off())


def _accept_of(services: Services) -> AcceptPayment:
    """The use case as it is wired, but for the chain."""
    direct = services.direct
    return AcceptPayment(
        ledger=services.ledger,
        store=direct.payments,
        chain=_AT_HAND,
        challenges=direct.challenges,
        clock=services.clock,
        terms=direct.accept.terms,
    )


async def _called(request: Request, accept: Any) -> Response:
    services = wired(request)
    changed = replace(services, direct=replace(services.direct, accept=accept))
    return await verify_payment(request, changed, await calling_seller(request))


class _AtHand:
    """A chain on which every signature is a payment to the benchmark's seller."""

    def __init__(self) -> None:
        payer, shop, mint = map(Pubkey.from_string, (PAYER, RECIPIENT, MINT))
        own, till = (get_associated_token_address(owner, mint) for owner in (payer, shop))
        pay = TransferCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            source=own,
            mint=mint,
            dest=till,
            owner=payer,
            amount=PRICE,
            decimals=6,
            signers=[],
        )
        memo = Instruction(MEMO_PROGRAM_ID, MEMO.encode(), [])
        steps = [transfer_checked(pay), memo]
        message = MessageV0.try_compile(payer, steps, [], Hash.default())
        unsigned = VersionedTransaction.populate(message, [Signature.default()])
        self._raw = bytes(unsigned)
        keys = list(message.account_keys)
        self._balances = [
            [_balance(keys.index(own), PAYER, PRICE), _balance(keys.index(till), RECIPIENT, 0)],
            [_balance(keys.index(own), PAYER, 0), _balance(keys.index(till), RECIPIENT, PRICE)],
        ]

    async def transaction(self, signature: str, _commitment: str) -> ObservedTransaction:
        """The answer as a provider sends it, read as the service reads it."""
        raw = self._raw[:1] + base58_decode(signature) + self._raw[65:]
        before, after = self._balances
        answer = {
            "slot": _SLOT,
            "blockTime": int(time.time()),
            "transaction": [base64.b64encode(raw).decode(), "base64"],
            "meta": {
                "err": None,
                "preTokenBalances": before,
                "postTokenBalances": after,
                "innerInstructions": [],
                "loadedAddresses": {"writable": [], "readonly": []},
            },
        }
        return observed(signature, json.loads(json.dumps(answer)))


class _Off:
    """Takes every header for paid."""

    async def verify(self, _seller: Any, header: str, required: Any, _keep: Any) -> PaymentAccepted:
        """An answer without a look at anything."""
        signature = json.loads(base64.b64decode(header))["payload"]["signature"]
        return PaymentAccepted(
            at=0,  # type: ignore[arg-type]  never stored
            signature=signature,
            seller_id="",
            resource=required.resource,
            chain_id=NETWORKS["localnet"].chain_id,
            pay_to=required.pay_to,
            asset=required.asset,
            required=required.max_amount_required,
            amount=required.max_amount_required,
            payer=PAYER,
            fee_payer=PAYER,
            slot=_SLOT,  # type: ignore[arg-type]  never stored
            block_time=0,
            commitment="confirmed",
            binding="memo",
            memo=MEMO,
            reference=None,
            header=header,
            transaction_hash=b"",
        )


def _balance(index: int, owner: str, amount: int) -> dict[str, Any]:
    return {
        "accountIndex": index,
        "owner": owner,
        "mint": MINT,
        "programId": str(TOKEN_PROGRAM_ID),
        "uiTokenAmount": {"amount": str(amount)},
    }


_AT_HAND: Any = _AtHand()
