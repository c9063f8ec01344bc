"""Which foreign transactions our fee payer signs: one transfer as claimed, and nothing beside it.

Who signs as fee payer lends its signature to every instruction. So a transaction is refused unless
each instruction is of a known form and none of them names the fee payer: then all that it can lose
is the fee, and the fee has a bound. Spec: x402, SVM `exact`, rules of the facilitator.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from service.domain.errors import SponsorshipRefused
from service.domain.settlement_plan import COMPUTE_UNIT_LIMIT_MAX, transaction_fee
from service.domain.units import AtomicUsdc, Lamports

COMPUTE_BUDGET_PROGRAM: Final = "ComputeBudget111111111111111111111111111111"
MEMO_PROGRAM: Final = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
ASSOCIATED_TOKEN_PROGRAM: Final = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"  # noqa: S105
SYSTEM_PROGRAM: Final = "11111111111111111111111111111111"
LIGHTHOUSE_PROGRAM: Final = "L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95"
TOKEN_PROGRAMS: Final = frozenset(
    {
        "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
        "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
    }
)
"""Every program that moves tokens."""

_UNITS_BY_DEFAULT: Final = 200_000
"""Compute units of an instruction where no limit is set. Spec: Solana, compute budget."""
_SET_LIMIT, _SET_PRICE = 2, 3
_LIMIT_BYTES, _PRICE_BYTES = 5, 9
_TRANSFER_CHECKED: Final = 12
_TRANSFER_BYTES: Final = 10
_TRANSFER_ACCOUNTS: Final = 4
_CREATE_IDEMPOTENT: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class ParsedInstruction:
    """One instruction, its accounts by address."""

    program: str
    accounts: tuple[str, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class ParsedTransaction:
    """A transaction as it came over the wire, sound in form; nothing in it is trusted.

    `signatures` stand in the order of `signers`, of which the first pays the fee; `verified` are
    those whose signature holds. Accounts out of a lookup table are not resolved and named "".
    """

    message: bytes
    version: Literal["legacy", "v0"]
    signers: tuple[str, ...]
    signatures: tuple[bytes, ...]
    verified: frozenset[str]
    instructions: tuple[ParsedInstruction, ...]
    blockhash: str
    lookup_tables: int

    @property
    def fee_payer(self) -> str:
        """The address that pays the fee."""
        return self.signers[0]


@dataclass(frozen=True, slots=True)
class TransferClaim:
    """What the transaction is said to pay; `amount` in atomic units, `memo` where one is asked for.

    `resource` is what is bought, for the record alone.
    """

    recipient: str
    amount: AtomicUsdc
    mint: str
    memo: str | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class SponsorPolicy:
    """What our fee payer signs. `token_address` gives the token account of (owner, mint).

    `compute_unit_price_max` in micro-lamports per unit, `priority_fee_max` in lamports.
    Instructions of `assertion_programs` may stand beside the transfer unread, as wallets add them;
    what they call is seen in the simulation.
    """

    fee_payer: str
    mint: str
    decimals: int
    token_program: str
    token_address: Callable[[str, str], str]
    instructions_min: int = 1
    instructions_max: int = 6
    compute_budget_required: bool = False
    compute_unit_limit_max: int = 400_000
    compute_unit_price_max: int = 5_000_000
    priority_fee_max: int = 100_000
    memo_bytes_max: int = 256
    account_creation: bool = True
    assertion_programs: frozenset[str] = frozenset()


def exact_policy(policy: SponsorPolicy) -> SponsorPolicy:
    """The same bounds with the rules of scheme `exact`. Spec: x402, SVM `exact`, static path."""
    return replace(
        policy,
        instructions_min=3,
        instructions_max=7,
        compute_budget_required=True,
        account_creation=False,
        assertion_programs=frozenset({LIGHTHOUSE_PROGRAM}),
    )


@dataclass(frozen=True, slots=True)
class SponsoredTransfer:
    """The one transfer of a transaction that passed, and the fee it costs us at most."""

    payer: str
    recipient: str
    source: str
    destination: str
    mint: str
    decimals: int
    amount: AtomicUsdc
    memo: str | None
    creates_recipient_account: bool
    fee: Lamports


def check_sponsored(
    tx: ParsedTransaction, claim: TransferClaim, policy: SponsorPolicy
) -> SponsoredTransfer:
    """Judge a transaction that waits for our signature alone.

    Raises:
        SponsorshipRefused: with the wire's code and what is wrong.
    """
    _check_frame(tx, policy)
    groups = _by_program(tx.instructions, policy)
    fee = _fee(groups[COMPUTE_BUDGET_PROGRAM], tx, policy)
    source, destination, payer, amount = _transfer(groups[policy.token_program], policy)
    _check_claim(claim, policy, destination, amount)
    if payer == claim.recipient:
        raise SponsorshipRefused("policy:self_payment", "payer and recipient are the same wallet")
    if source != policy.token_address(payer, policy.mint):
        raise SponsorshipRefused(
            "policy:source_not_payers", "the source is not the payer's associated token account"
        )
    _check_signers(tx, payer)
    return SponsoredTransfer(
        payer=payer,
        recipient=claim.recipient,
        source=source,
        destination=destination,
        mint=policy.mint,
        decimals=policy.decimals,
        amount=claim.amount,
        memo=_memo(groups[MEMO_PROGRAM], payer, claim.memo, policy),
        creates_recipient_account=_creates(
            groups.get(ASSOCIATED_TOKEN_PROGRAM, []), payer, claim.recipient, destination, policy
        ),
        fee=fee,
    )


def needs_inner(tx: ParsedTransaction, policy: SponsorPolicy) -> bool:
    """Whether the top level does not show all that the transaction does."""
    return any(step.program in policy.assertion_programs for step in tx.instructions)


def check_inner(inner_programs: Iterable[str], policy: SponsorPolicy) -> None:
    """Judge what a simulation showed below the top level: the transfer has to stand alone.

    Raises:
        SponsorshipRefused: a called program calls a token program.
    """
    if not policy.account_creation and not TOKEN_PROGRAMS.isdisjoint(inner_programs):
        raise SponsorshipRefused(
            "policy:inner_transfer", "a called program calls the token program"
        )


def _check_frame(tx: ParsedTransaction, policy: SponsorPolicy) -> None:
    if tx.lookup_tables:
        raise SponsorshipRefused(
            "policy:lookup_table", "address lookup tables are not resolved: name every account"
        )
    if tx.fee_payer != policy.fee_payer:
        raise SponsorshipRefused(
            "policy:fee_payer_mismatch", f"the fee payer must be {policy.fee_payer}"
        )
    for number, instruction in enumerate(tx.instructions):
        if policy.fee_payer in (instruction.program, *instruction.accounts):
            raise SponsorshipRefused(
                "policy:fee_payer_not_isolated", f"instruction {number} names the fee payer"
            )
    if len(tx.instructions) < policy.instructions_min:
        raise SponsorshipRefused(
            "policy:too_few_instructions",
            f"{len(tx.instructions)} instructions, {policy.instructions_min} are the least",
        )
    if len(tx.instructions) > policy.instructions_max:
        raise SponsorshipRefused(
            "policy:too_many_instructions",
            f"{len(tx.instructions)} instructions, {policy.instructions_max} are allowed",
        )


def _by_program(
    instructions: Iterable[ParsedInstruction], policy: SponsorPolicy
) -> dict[str, list[ParsedInstruction]]:
    groups: dict[str, list[ParsedInstruction]] = {
        program: []
        for program in (
            COMPUTE_BUDGET_PROGRAM,
            policy.token_program,
            MEMO_PROGRAM,
            *([ASSOCIATED_TOKEN_PROGRAM] if policy.account_creation else []),
            *policy.assertion_programs,
        )
    }
    for number, instruction in enumerate(instructions):
        group = groups.get(instruction.program)
        if group is None:
            raise SponsorshipRefused(
                "policy:program_not_allowed",
                f"program {instruction.program} is not allowed",
                instruction=number,
            )
        group.append(instruction)
    return groups


def _fee(
    settings: Iterable[ParsedInstruction], tx: ParsedTransaction, policy: SponsorPolicy
) -> Lamports:
    """What the transaction costs the fee payer, in lamports."""
    seen: dict[int, int] = {}
    for instruction in settings:
        data, kind = instruction.data, instruction.data[0] if instruction.data else None
        size = {_SET_LIMIT: _LIMIT_BYTES, _SET_PRICE: _PRICE_BYTES}.get(kind or 0)
        if kind is None or len(data) != size or instruction.accounts or kind in seen:
            raise SponsorshipRefused(
                "policy:compute_budget", "at most one unit limit and one unit price are allowed"
            )
        seen[kind] = int.from_bytes(data[1:], "little")
    for kind, what in (_SET_LIMIT, "limit"), (_SET_PRICE, "price"):
        if policy.compute_budget_required and kind not in seen:
            raise SponsorshipRefused(
                f"policy:compute_unit_{what}_missing", f"set a compute unit {what}"
            )
    price = seen.get(_SET_PRICE, 0)
    working = sum(step.program != COMPUTE_BUDGET_PROGRAM for step in tx.instructions)
    limit = seen.get(_SET_LIMIT)
    if limit is None:
        limit = min(COMPUTE_UNIT_LIMIT_MAX, working * _UNITS_BY_DEFAULT)
    elif limit > policy.compute_unit_limit_max:
        raise SponsorshipRefused(
            "policy:compute_unit_limit", f"at most {policy.compute_unit_limit_max} compute units"
        )
    if price > policy.compute_unit_price_max:
        raise SponsorshipRefused(
            "policy:compute_unit_price",
            f"at most {policy.compute_unit_price_max} micro-lamports per compute unit",
        )
    base = transaction_fee(len(tx.signers), 0, 0)
    fee = transaction_fee(len(tx.signers), limit, price)
    if fee - base > policy.priority_fee_max:
        raise SponsorshipRefused(
            "policy:fee_too_high",
            f"a priority fee of {fee - base} lamports, {policy.priority_fee_max} are allowed",
        )
    return fee


def _transfer(
    instructions: list[ParsedInstruction], policy: SponsorPolicy
) -> tuple[str, str, str, int]:
    """Source, destination, authority and amount of the one transfer."""
    if not instructions:
        raise SponsorshipRefused(
            "no_transfer_instruction", "the transaction has no TransferChecked instruction"
        )
    for instruction in instructions:
        if instruction.data[:1] != bytes([_TRANSFER_CHECKED]):
            raise SponsorshipRefused(
                "policy:instruction_not_allowed",
                "TransferChecked is the only instruction of the token program that is allowed",
            )
    if len(instructions) > 1:
        raise SponsorshipRefused("policy:multiple_transfers", "exactly one transfer is allowed")
    transfer = instructions[0]
    if len(transfer.data) != _TRANSFER_BYTES or len(transfer.accounts) != _TRANSFER_ACCOUNTS:
        raise SponsorshipRefused(
            "policy:instruction_not_allowed",
            "the transfer must hold an amount and decimals, and name four accounts",
        )
    source, mint, destination, authority = transfer.accounts
    if mint != policy.mint or transfer.data[-1] != policy.decimals:
        raise SponsorshipRefused(
            "asset_mismatch", f"the transfer must be of {policy.mint} ({policy.decimals} decimals)"
        )
    return source, destination, authority, int.from_bytes(transfer.data[1:-1], "little")


def _check_claim(
    claim: TransferClaim, policy: SponsorPolicy, destination: str, amount: int
) -> None:
    if claim.mint != policy.mint:
        raise SponsorshipRefused("asset_mismatch", f"asset must be {policy.mint}")
    if destination != policy.token_address(claim.recipient, policy.mint):
        raise SponsorshipRefused(
            "recipient_mismatch", "the transfer does not pay the recipient's token account"
        )
    if claim.amount == 0 or amount != claim.amount:
        raise SponsorshipRefused(
            "amount_mismatch", f"expected {claim.amount}, the transfer is of {amount}"
        )


def _check_signers(tx: ParsedTransaction, payer: str) -> None:
    others = set(tx.signers[1:])
    if others != {payer}:
        raise SponsorshipRefused(
            "policy:unexpected_signer", "the payer alone must sign beside the fee payer"
        )
    if payer in tx.verified:
        return
    if not any(tx.signatures[tx.signers.index(payer)]):
        raise SponsorshipRefused("missing_signature", "the payer has not signed the transaction")
    raise SponsorshipRefused("invalid_signature", "the payer's signature does not hold")


def _memo(
    memos: list[ParsedInstruction], payer: str, wanted: str | None, policy: SponsorPolicy
) -> str | None:
    if wanted is not None and len(memos) != 1:
        raise SponsorshipRefused("policy:memo_count", f"{len(memos)} memos, one is asked for")
    if wanted is not None and memos[0].data != wanted.encode():
        raise SponsorshipRefused("policy:memo_mismatch", "the memo is not the one asked for")
    if not memos:
        return None
    memo = memos[0]
    if len(memos) > 1 or len(memo.data) > policy.memo_bytes_max or {*memo.accounts} - {payer}:
        raise SponsorshipRefused(
            "policy:memo",
            f"one memo of at most {policy.memo_bytes_max} bytes is allowed, signed by the payer",
        )
    try:
        return memo.data.decode()
    except UnicodeDecodeError:
        raise SponsorshipRefused("policy:memo", "the memo must be UTF-8 text") from None


def _creates(
    creations: list[ParsedInstruction],
    payer: str,
    recipient: str,
    destination: str,
    policy: SponsorPolicy,
) -> bool:
    """Whether the payer has the recipient's account created, at its own cost."""
    if not creations:
        return False
    accounts = (
        payer,
        destination,
        recipient,
        policy.mint,
        SYSTEM_PROGRAM,
        policy.token_program,
    )
    if (
        len(creations) > 1
        or creations[0].data != _CREATE_IDEMPOTENT
        or creations[0].accounts != accounts
    ):
        raise SponsorshipRefused(
            "policy:account_creation",
            "only the recipient's account may be created, idempotently and paid by the payer",
        )
    return True
