"""A buyer's wallet on a test chain: it funds itself, pays, and looks up what became of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from session_ledger.challenge import NETWORKS
from session_ledger.json_text import JsonValue
from session_ledger.rpc import Rpc, RpcError
from session_ledger.transfers import Transfer, signed, token_account
from session_ledger.x402.amounts import to_atomic_units
from session_ledger.x402.direct import PaymentRequirements
from session_ledger.x402.errors import PaymentCreationError, PaymentVerificationError

USDC: Final = NETWORKS["localnet"].usdc_mint
_LAMPORTS: Final = 10_000_000_000
"""Ten SOL, enough for the fees of a million payments."""

_DECIMALS_AT: Final = 44
_BALANCE_AT: Final = 64
_BALANCE_END: Final = 72
"""Offsets in a mint and in a token account. Spec: SPL Token, `Mint` and `Account`."""


@dataclass(frozen=True, slots=True)
class Payment:
    """A confirmed transfer of `amount` atomic units of `asset` (a mint)."""

    signature: str
    amount: int
    asset: str
    payer: str
    pay_to: str


@dataclass(frozen=True, slots=True)
class _Mint:
    address: Pubkey
    token_program: Pubkey
    decimals: int


class Wallet:
    """The key of `seed` (32 bytes), or a fresh one, at the node `rpc_url`.

    Safe to share between threads. Close it, or use it as a context manager.
    """

    def __init__(self, rpc_url: str, seed: bytes | None = None) -> None:
        self._rpc = Rpc(rpc_url)
        self._keypair = Keypair() if seed is None else Keypair.from_seed(seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the node."""
        self._rpc.close()

    @property
    def address(self) -> str:
        """The wallet's address."""
        return str(self._keypair.pubkey())

    def fund(self, amount: str = "1000", *, mint: str = USDC) -> Self:
        """Set the wallet's balance of the token, and give it SOL for fees. Test chains only.

        Raises:
            PaymentCreationError: the chain gives nothing away, or does not know the mint.
        """
        known = self._mint(mint)
        units = to_atomic_units(amount, known.decimals)
        try:
            self._rpc.confirm(self._rpc.airdrop(self.address, _LAMPORTS))
            program = str(known.token_program)
            self._rpc.call(
                "surfnet_setTokenAccount", self.address, mint, {"amount": units}, program
            )
        except RpcError as error:
            raise PaymentCreationError(f"Cannot fund the wallet: {error}") from error
        return self

    def balance(self, mint: str = USDC) -> int:
        """Atomic units of the token that the wallet holds; 0 without an account.

        Raises:
            PaymentCreationError: the chain does not know the mint or cannot be reached.
        """
        known = self._mint(mint)
        address = token_account(self._keypair.pubkey(), known.address, known.token_program)
        try:
            account = self._rpc.account(str(address))
        except RpcError as error:
            raise PaymentCreationError(str(error)) from error
        if account is None:
            return 0
        return int.from_bytes(account.data[_BALANCE_AT:_BALANCE_END], "little")

    def decimals(self, mint: str = USDC) -> int:
        """Decimal places of the token.

        Raises:
            PaymentCreationError: as for `balance`.
        """
        return self._mint(mint).decimals

    def pay(self, requirements: PaymentRequirements) -> Payment:
        """Transfer exactly the required amount, and wait until it is confirmed.

        The transaction carries `extra.memo` and names `extra.reference` where they are given.

        Raises:
            PaymentCreationError: `Insufficient balance`, or what the chain says against it.
        """
        asset, amount = requirements.asset, requirements.max_amount_required
        mint = self._mint(asset)
        if self.balance(asset) < amount:
            raise PaymentCreationError("Insufficient balance")
        transfer = Transfer(
            mint=mint.address,
            token_program=mint.token_program,
            decimals=mint.decimals,
            recipient=Pubkey.from_string(requirements.pay_to),
            amount=amount,
            memo=requirements.memo,
            reference=requirements.reference,
        )
        try:
            raw = signed(self._keypair, transfer, self._rpc.latest_blockhash())
            signature = self._rpc.send(raw)
            self._rpc.confirm(signature)
        except RpcError as error:
            raise PaymentCreationError(str(error)) from error
        return Payment(signature, amount, asset, self.address, requirements.pay_to)

    def check(self, payment: Payment) -> None:
        """Read on the chain that the recipient gained the payment's amount.

        Raises:
            PaymentVerificationError: it did not, or the transaction is not there.
        """
        try:
            found = self._rpc.transaction(payment.signature)
        except RpcError as error:
            raise PaymentVerificationError(
                payment.signature, f"Verification error: {error}"
            ) from error
        match found:
            case {"meta": {"err": None, **meta}}:
                gained = _gain(meta, payment)
            case {"meta": {"err": error}}:
                raise PaymentVerificationError(payment.signature, f"Transaction failed: {error}")
            case _:
                raise PaymentVerificationError(payment.signature, "Transaction not found")
        if gained < payment.amount:
            reason = f"Insufficient amount: expected {payment.amount}, got {gained}"
            raise PaymentVerificationError(payment.signature, reason)

    def _mint(self, address: str) -> _Mint:
        try:
            account = self._rpc.account(address)
        except RpcError as error:
            raise PaymentCreationError(str(error)) from error
        if account is None or len(account.data) <= _DECIMALS_AT:
            raise PaymentCreationError(f"There is no token {address} on this chain")
        program = Pubkey.from_string(account.owner)
        return _Mint(Pubkey.from_string(address), program, account.data[_DECIMALS_AT])


def _gain(meta: dict[str, JsonValue], payment: Payment) -> int:
    after = sum(_balances(meta.get("postTokenBalances"), payment))
    return after - sum(_balances(meta.get("preTokenBalances"), payment))


def _balances(entries: JsonValue, payment: Payment) -> Iterator[int]:
    """What the recipient holds of the asset, account by account."""
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case {
                "owner": payment.pay_to,
                "mint": payment.asset,
                "uiTokenAmount": {"amount": str(amount)},
            }:
                yield int(amount)
            case _:
                pass
