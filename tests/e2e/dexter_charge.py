"""The reference's one-shot payments: the buyer's `charge` method and the seller's.

Spec: @dexterai/mpp 0.5.0, `client/charge` and `server/charge`.
"""

import base64
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from spl.token.instructions import get_associated_token_address, transfer_checked
from spl.token.models import TransferCheckedParams

from tests.e2e.dexter_client import PlainError, SettlementClient, SettlementError
from tests.e2e.dexter_signing import partially_signed

MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


def charge_transaction(request: dict[str, Any], buyer: Keypair) -> str:
    """The buyer's half of a one-shot payment: base64, the fee payer's signature still missing."""
    details = request["methodDetails"]
    for name in ("splToken", "feePayerKey", "recentBlockhash"):
        if not details.get(name):
            raise PlainError(f"Challenge missing required field: methodDetails.{name}")
    mint = Pubkey.from_string(details["splToken"])
    program = Pubkey.from_string(details["tokenProgram"])
    recipient = Pubkey.from_string(request["recipient"])
    transfer = TransferCheckedParams(
        program_id=program,
        source=get_associated_token_address(buyer.pubkey(), mint, program),
        mint=mint,
        dest=get_associated_token_address(recipient, mint, program),
        owner=buyer.pubkey(),
        amount=int(request["amount"]),
        decimals=int(details["decimals"]),
    )
    instructions = [
        set_compute_unit_price(1),
        set_compute_unit_limit(50_000),
        transfer_checked(transfer),
        Instruction(MEMO_PROGRAM, f"mppx:{details['reference']}".encode(), []),
    ]
    fee_payer = Pubkey.from_string(details["feePayerKey"])
    blockhash = Hash.from_string(details["recentBlockhash"])
    message = MessageV0.try_compile(fee_payer, instructions, [], blockhash)
    raw = to_bytes_versioned(message)
    count = message.header.num_required_signatures
    unsigned = bytes([count]) + bytes(64 * count) + raw
    return base64.b64encode(partially_signed(unsigned, buyer)).decode()


@dataclass
class ChargeSeller:
    """The seller's `charge`: a challenge from `prepare`, and a receipt from `settle`."""

    client: SettlementClient
    recipient: str
    network: str = "mainnet-beta"

    async def challenge(self, amount: str) -> dict[str, Any]:
        prepared = await self.client.prepare(network=self.network)
        return {
            "amount": amount,
            "recipient": self.recipient,
            "methodDetails": {
                "reference": str(uuid4()),
                "network": prepared["network"],
                "splToken": prepared["splToken"],
                "decimals": prepared["decimals"],
                "tokenProgram": prepared["tokenProgram"],
                "feePayer": True,
                "feePayerKey": prepared["feePayer"],
                "recentBlockhash": prepared["recentBlockhash"],
                "lastValidBlockHeight": prepared.get("lastValidBlockHeight"),
            },
        }

    async def verify(self, request: dict[str, Any], transaction: str) -> str:
        """The signature of the payment that was settled."""
        asset = request["methodDetails"]["splToken"]
        result = await self.client.settle(
            transaction=transaction,
            recipient=request["recipient"],
            amount=request["amount"],
            asset=asset,
            network=request["methodDetails"]["network"],
        )
        if not result["success"]:
            named, detail = result.get("error"), result.get("detail")
            code = result.get("errorCode", named or "settlement_failed")
            raise SettlementError(code, detail or named or "Settlement failed")
        if not result.get("signature"):
            raise PlainError("Facilitator returned success but no transaction signature")
        if proof := result.get("settlement"):
            expected = {"recipient": request["recipient"], "amount": request["amount"]}
            expected |= {"asset": asset} if proof.get("asset") else {}
            for name, wanted in expected.items():
                if proof[name] != wanted:
                    message = f"settled {proof[name]}, the challenge said {wanted}"
                    raise SettlementError(f"settlement_{name}_mismatch", message)
        return str(result["signature"])
