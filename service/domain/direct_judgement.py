"""Is a transaction on the chain the payment it is said to be? Pure: one reading, one answer.

The recipient's net gain of the asset decides, over all of its accounts and all levels of
instructions. The rest asks whose payment it is, how old, and what it was made for.

Spec: x402test documentation, "Server Verification" (the order) and "Error Handling" (the texts);
where its server emits another text, `library_error` has that one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from service.domain.codec import canonical
from service.domain.observed import ObservedTransaction
from service.domain.units import AtomicUsdc, Slot, UnixMillis

_MILLIS: Final = 1_000

Binding = Literal["challenge", "memo", "reference", "payer"]
"""What ties a payment to its resource: a memo that we issued, the seller's own memo, the seller's
reference among the accounts, or the payer's name alone."""

REFUSALS: Final[Mapping[str, str]] = {
    "invalid_header": "the X-PAYMENT header is not one of this dialect",
    "payment_already_processed": "the signature has bought something already, or is one of ours",
    "payment_reversed": "the signature was accepted, and the chain has taken the payment back",
    "version_mismatch": "the header is of another x402 version",
    "scheme_mismatch": "the header names another scheme than the requirements",
    "network_mismatch": "the header names another network than the requirements",
    "transaction_not_found": "the chain does not show the transaction at the wanted commitment yet",
    "transaction_failed": "the transaction is on the chain with an error, so it moved nothing",
    "no_transfer": "the transaction moves no token",
    "insufficient_amount": "the recipient gained less than required, refunds and fees deducted",
    "wrong_recipient": "somebody else was paid",
    "wrong_token": "the recipient was paid in another mint",
    "self_payment": "the recipient paid itself",
    "payment_time_unknown": "the chain does not say yet when the transaction landed",
    "payment_too_old": "the payment landed longer ago than the requirements or the service allow",
    "binding_missing": "the payment says not what it is for, and this service wants that",
    "binding_mismatch": "the payment is for something else: its memo or reference is another one",
    "from_mismatch": "the header's `from` neither owned nor moved what was paid",
    "amount_mismatch": "the header's `amount` is not what the transaction paid",
    "mint_mismatch": "the header's `mint` is not the asset that was required",
    "chain_unavailable": "the chain could not be asked; the same payment may be verified again",
}
"""What each refusal of a direct payment means, by its code. Source of docs/errors.md."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a payment is not accepted. `error` is the documentation's text, where it has one.

    `status` is what the seller answers its client; a retryable one may be accepted later.
    """

    code: str
    error: str
    library_error: str
    retryable: bool = False
    status: Literal[400, 402] = 402


def refusal(code: str, error: str, library_error: str | None = None) -> Refusal:
    """A refusal for good, with status 402."""
    return Refusal(code, error, library_error or error)


def may_pass(code: str, error: str, library_error: str | None = None) -> Refusal:
    """A refusal that may pass."""
    return Refusal(code, error, library_error or error, retryable=True)


ALREADY_PROCESSED: Final = refusal("payment_already_processed", "Payment already processed")
NOT_FOUND: Final = may_pass(
    "transaction_not_found", "Transaction not found or not confirmed", "Transaction not found"
)
REVERSED: Final = refusal("payment_reversed", "Payment already processed")
INVALID_HEADER: Final = Refusal(
    "invalid_header",
    "Invalid X-PAYMENT header format",
    "Invalid X-PAYMENT header format",
    status=400,
)


@dataclass(frozen=True, slots=True)
class DirectClaim:
    """What the seller requires and what the header says. Amounts are atomic units of the asset.

    `memo` and `reference` are the seller's own. `issued` says whether a memo is a challenge of ours
    for this resource, open at a block time (Unix seconds); `unbound` whether a payment without any
    memo passes on its payer's name.
    """

    pay_to: str
    asset: str
    required: AtomicUsdc
    memo: str | None
    reference: str | None
    payer: str
    amount: AtomicUsdc
    mint: str
    age_seconds_max: int
    issued: Callable[[str, int], bool]
    unbound: bool


@dataclass(frozen=True, slots=True)
class DirectFacts:
    """A payment that passed. `amount` is the recipient's net gain; `block_time` Unix seconds."""

    signature: str
    slot: Slot
    block_time: int
    payer: str
    fee_payer: str
    amount: AtomicUsdc
    binding: Binding
    memo: str | None
    raw_hash: bytes


def judge(tx: ObservedTransaction, claim: DirectClaim, now: UnixMillis) -> DirectFacts | Refusal:
    """Outcome, amount, recipient, asset; then age, binding, and what the header says."""
    wrong = _outcome(tx) or _credit(tx, claim) or _age(tx, claim, now)
    if wrong is not None:
        return wrong
    assert tx.block_time is not None
    bound = _bound(tx, claim, tx.block_time)
    if isinstance(bound, Refusal):
        return bound
    wrong = _contradiction(tx, claim)
    if wrong is not None:
        return wrong
    binding, memo = bound
    return DirectFacts(
        signature=tx.signature,
        slot=tx.slot,
        block_time=tx.block_time,
        payer=claim.payer,
        fee_payer=tx.signers[0],
        amount=AtomicUsdc(tx.net(claim.pay_to, claim.asset)),
        binding=binding,
        memo=memo,
        raw_hash=tx.raw_hash,
    )


def _outcome(tx: ObservedTransaction) -> Refusal | None:
    if tx.error is None:
        return None
    return refusal("transaction_failed", f"Transaction failed: {canonical(tx.error).decode()}")


def _credit(tx: ObservedTransaction, claim: DirectClaim) -> Refusal | None:
    """Whether the recipient gained enough of the asset; if not, what is wrong with what moved."""
    if tx.net(claim.pay_to, claim.asset) >= claim.required:
        return None
    touched = {(balance.owner, balance.mint) for balance in tx.balances}
    gains = {of: gain for of in touched if (gain := tx.net(*of)) > 0}
    if not gains and not tx.transfers:
        return refusal("no_transfer", "No token transfer instruction found in transaction")
    wanted = claim.pay_to, claim.asset
    owner, mint = wanted
    if wanted not in touched and gains:
        # The gain that comes nearest: of the recipient, else of the asset, else the largest.
        owner, mint = max(
            gains, key=lambda of: (of[0] == claim.pay_to, of[1] == claim.asset, gains[of], of)
        )
    got = max(0, tx.net(owner, mint))
    if got < claim.required:
        paid_itself = got == 0 and _pays_itself(tx, claim)
        return refusal(
            "self_payment" if paid_itself else "insufficient_amount",
            f"Payment amount {got} is less than required {claim.required}",
            f"Insufficient amount: expected {claim.required}, got {got}",
        )
    if owner != claim.pay_to:
        return refusal("wrong_recipient", f"Wrong recipient: expected {claim.pay_to}, got {owner}")
    return refusal("wrong_token", f"Wrong token: expected {claim.asset}, got {mint}")


def _accounts_of(tx: ObservedTransaction, owner: str, mint: str) -> set[str]:
    held = (balance for balance in tx.balances if (balance.owner, balance.mint) == (owner, mint))
    return {balance.account for balance in held}


def _pays_itself(tx: ObservedTransaction, claim: DirectClaim) -> bool:
    own = _accounts_of(tx, claim.pay_to, claim.asset)
    return any(step.source in own and step.destination in own for step in tx.transfers)


def _age(tx: ObservedTransaction, claim: DirectClaim, now: UnixMillis) -> Refusal | None:
    if tx.block_time is None:
        return may_pass("payment_time_unknown", "Payment time is not known yet")
    seconds = now // _MILLIS - tx.block_time
    if seconds <= claim.age_seconds_max:
        return None
    return refusal(
        "payment_too_old",
        f"Payment too old: {seconds} seconds, at most {claim.age_seconds_max} are allowed",
    )


def _bound(
    tx: ObservedTransaction, claim: DirectClaim, block_time: int
) -> tuple[Binding, str | None] | Refusal:
    """What ties the payment to the resource, and the memo that does."""
    if claim.memo is not None or claim.reference is not None:
        return _bound_by_seller(tx, claim)
    for memo in tx.memos:
        if claim.issued(memo, block_time):
            return "challenge", memo
    if tx.memos:
        return refusal("binding_mismatch", "Wrong memo: the payment is for another resource")
    if not claim.unbound:
        return refusal("binding_missing", "Missing memo: the payment names no resource")
    return "payer", None


def _bound_by_seller(
    tx: ObservedTransaction, claim: DirectClaim
) -> tuple[Binding, str | None] | Refusal:
    """The same where the seller asked for a memo, a reference or both of its own."""
    if claim.memo is not None and claim.memo not in tx.memos:
        return refusal("binding_mismatch", "Wrong memo: the payment is for another challenge")
    if claim.reference is not None and claim.reference not in tx.accounts:
        return refusal("binding_mismatch", "Wrong reference: the payment is for another challenge")
    return "reference" if claim.memo is None else "memo", claim.memo


def _contradiction(tx: ObservedTransaction, claim: DirectClaim) -> Refusal | None:
    """Whether the header says something else than the transaction shows."""
    if claim.mint != claim.asset:
        return refusal("mint_mismatch", f"Wrong mint: expected {claim.asset}, got {claim.mint}")
    own = _accounts_of(tx, claim.pay_to, claim.asset)
    incoming = [step for step in tx.transfers if step.destination in own]
    gain = tx.net(claim.pay_to, claim.asset)
    if claim.amount not in {gain, sum(step.amount for step in incoming)} | {
        step.amount for step in incoming
    }:
        return refusal("amount_mismatch", f"Wrong amount: the header says {claim.amount}")
    sources = {step.source for step in incoming}
    payers = {
        balance.owner
        for balance in tx.balances
        if balance.mint == claim.asset
        and (balance.after < balance.before or balance.account in sources)
    } | {step.authority for step in incoming if step.authority in tx.signers}
    if claim.payer == claim.pay_to:
        return refusal("self_payment", "Payer and recipient are the same")
    if claim.payer not in payers:
        return refusal("from_mismatch", f"Wrong payer: {claim.payer} did not pay")
    return None
