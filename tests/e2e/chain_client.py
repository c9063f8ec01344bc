"""The local chain of a running service, as the tests fund accounts and read balances."""

import base64
from dataclasses import dataclass
from typing import Any

import httpx
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.token.instructions import (
    create_idempotent_associated_token_account,
    get_associated_token_address,
)

from tests.e2e.waiting import until


@dataclass
class Chain:
    """The local chain, through its JSON-RPC."""

    http: httpx.Client
    facts: dict[str, str]

    @property
    def mint(self) -> Pubkey:
        return Pubkey.from_string(self.facts["mint"])

    def call(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self.http.post(self.facts["rpcUrl"], json=body).json()
        assert "error" not in answer, answer
        return answer["result"]

    def send(self, payer: Keypair, *instructions: Instruction) -> str:
        """Sign, send, and wait until the transaction is finalized without an error."""
        blockhash = self.call("getLatestBlockhash")["value"]["blockhash"]
        message = MessageV0.try_compile(
            payer.pubkey(), list(instructions), [], Hash.from_string(blockhash)
        )
        raw = base64.b64encode(bytes(VersionedTransaction(message, [payer]))).decode()
        signature: str = self.call("sendTransaction", raw, {"encoding": "base64"})

        def finalized() -> bool:
            status = self.call("getSignatureStatuses", [signature])["value"][0]
            assert status is None or status["err"] is None, status
            return bool(status) and status["confirmationStatus"] == "finalized"

        until(finalized)
        return signature

    def receive(self, wallet: Keypair) -> None:
        """Create the wallet's token account, so that it can be paid."""
        self.call("requestAirdrop", str(wallet.pubkey()), 1_000_000_000)
        owner = wallet.pubkey()
        self.send(wallet, create_idempotent_associated_token_account(owner, owner, self.mint))

    def balance(self, wallet: Keypair) -> int:
        """Atomic USDC at finalized; a missing account holds 0."""
        account = get_associated_token_address(wallet.pubkey(), self.mint)
        how = {"commitment": "finalized", "encoding": "jsonParsed"}
        value = self.call("getAccountInfo", str(account), how)["value"]
        return int(value["data"]["parsed"]["info"]["tokenAmount"]["amount"]) if value else 0
