"""Whether a role of a Swig wallet may make one payment, and how much it still allows.

Spec: Swig program, `SignV2`: how it authenticates a role and charges the role's limits. What is
judged here is judged again by the program; this only finds out before a transaction is paid for.
"""

from dataclasses import dataclass
from typing import Final

from solders.pubkey import Pubkey

from service.adapters.solana.swig_account import Role, SwigAccount, parse_swig_account
from service.adapters.solana.swig_actions import (
    All,
    AllButManageAuthority,
    Program,
    ProgramAll,
    ProgramCurated,
    SwigLayoutError,
    TokenDestinationLimit,
    TokenLimit,
    TokenRecurringDestinationLimit,
    TokenRecurringLimit,
)
from service.adapters.solana.swig_instructions import SWIG_PROGRAM_ID, wallet_pda
from service.domain.failures import Finding
from service.domain.limits import U64_MAX
from service.domain.onchain import RawAccount, TokenAccount
from service.domain.units import AtomicUsdc, Slot

EXPIRY_MARGIN_SLOTS: Final = 300
"""Slots that a session key must outlive now: a transaction can land 150 blocks after it was signed,
and slots without a block count too."""

_UNLIMITED: Final = (All(), AllButManageAuthority())
_NOTHING: Final = AtomicUsdc(0)


@dataclass(frozen=True, slots=True)
class Sight:
    """A Swig wallet as it was read: its account, its wallet address, and what pays."""

    swig_address: str
    swig: RawAccount | None
    wallet: RawAccount | None
    source_address: str
    source: TokenAccount | None
    slot: Slot


@dataclass(frozen=True, slots=True)
class Payment:
    """What is asked of a role; `destination` is the recipient's token account, once it is known."""

    key: str
    mint: str
    token_program: str
    amount: int = 0
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the role still allows, in atomic units, and what keeps it from paying."""

    allowance: AtomicUsdc
    finding: Finding | None
    role: Role | None = None


def readable(sight: Sight) -> SwigAccount | Finding:
    """The wallet, or why it is none that can be paid from."""
    account = sight.swig
    if account is None:
        return Finding("swig_account_missing", f"there is no account at {sight.swig_address}")
    if account.owner != str(SWIG_PROGRAM_ID):
        return Finding("swig_account_missing", f"the account belongs to {account.owner}")
    try:
        swig = parse_swig_account(account.data)
    except SwigLayoutError as error:
        return Finding("swig_account_missing", f"the account cannot be read: {error}")
    if swig.version == "v1":
        return Finding("swig_v1", f"{sight.swig_address} has the layout of version 1")
    return swig


def judge_role(sight: Sight, role_id: int | None, payment: Payment) -> Judgement:
    """Whether the role may pay at all; without an id, the first role of our key that may.

    The balance, and whether the allowance covers the amount, are not looked at.
    """
    swig = readable(sight)
    if isinstance(swig, Finding):
        return Judgement(_NOTHING, swig)
    if role_id is not None:
        role = swig.role(role_id)
        if role is None:
            return Judgement(_NOTHING, Finding("swig_role_missing", f"there is no role {role_id}"))
        return _judged(role, payment, sight.slot)
    judged = [
        _judged(role, payment, sight.slot) for role in swig.roles if role.signer == payment.key
    ]
    if not judged:
        detail = f"no role belongs to {payment.key}"
        return Judgement(_NOTHING, Finding("swig_role_missing", detail))
    passing = [found for found in judged if found.finding is None]
    enough = [found for found in passing if found.allowance >= payment.amount]
    return (enough or passing or judged)[0]


def judge(sight: Sight, role_id: int | None, payment: Payment) -> Judgement:
    """Whether the payment would go through now, by everything that was read."""
    found = judge_role(sight, role_id, payment)
    finding = found.finding or _source_finding(sight, payment)
    if finding is None and found.allowance < payment.amount:
        detail = f"{found.allowance} is allowed, {payment.amount} is owed"
        finding = Finding("swig_limit_too_small", detail)
    return Judgement(found.allowance, finding or _funds_finding(sight, payment), found.role)


def _judged(role: Role, payment: Payment, slot: Slot) -> Judgement:
    if role.signer != payment.key:
        detail = f"role {role.id} belongs to {role.signer or 'a key of another kind'}"
        return Judgement(_NOTHING, Finding("swig_role_wrong_key", detail), role)
    if role.session is not None and role.session.expires_at <= slot + EXPIRY_MARGIN_SLOTS:
        detail = f"the session ends at slot {role.session.expires_at}, now is {slot}"
        return Judgement(_NOTHING, Finding("swig_role_expired", detail), role)
    programs = (Program(payment.token_program), ProgramCurated(), ProgramAll(), *_UNLIMITED)
    if not role.allows(*programs):
        detail = f"role {role.id} may not call the token program"
        return Judgement(_NOTHING, Finding("swig_permission_missing", detail), role)
    allowance = _allowance(role, payment, slot)
    if isinstance(allowance, Finding):
        return Judgement(_NOTHING, allowance, role)
    return Judgement(AtomicUsdc(allowance), None, role)


def _allowance(role: Role, payment: Payment, slot: Slot) -> int | Finding:
    """The general limit and the one of the destination are both charged, so both bound it."""
    if role.allows(*_UNLIMITED):
        return U64_MAX
    bounds = (_general_limit(role, payment.mint, slot), _destination_limit(role, payment, slot))
    for bound in bounds:
        if isinstance(bound, Finding):
            return bound
    limits = [bound for bound in bounds if isinstance(bound, int)]
    if not limits:
        detail = f"role {role.id} has no limit for {payment.mint}"
        return Finding("swig_permission_missing", detail)
    return min(limits)


def _general_limit(role: Role, mint: str, slot: Slot) -> int | None:
    """The first limit of the mint counts, and a plain one before a recurring one."""
    for action in role.actions:
        if isinstance(action, TokenLimit) and action.mint == mint:
            return action.remaining
    for action in role.actions:
        if isinstance(action, TokenRecurringLimit) and action.mint == mint:
            return _left(action, slot)
    return None


def _destination_limit(role: Role, payment: Payment, slot: Slot) -> int | Finding | None:
    """Where the role has any limit of this form for the mint, the destination needs one."""
    of_mint = [
        action
        for action in role.actions
        if isinstance(action, (TokenDestinationLimit, TokenRecurringDestinationLimit))
        and action.mint == payment.mint
    ]
    if not of_mint:
        return None
    matching = [action for action in of_mint if action.destination == payment.destination]
    for action in matching:
        if isinstance(action, TokenRecurringDestinationLimit):
            return _left(action, slot)
    for action in matching:
        if isinstance(action, TokenDestinationLimit):
            return action.remaining
    to = payment.destination or "a recipient that is not known yet"
    return Finding("swig_permission_missing", f"role {role.id} may not pay to {to}")


def _left(limit: TokenRecurringLimit | TokenRecurringDestinationLimit, slot: Slot) -> int:
    """A window is over once more than its slots have passed; then the whole limit is left again."""
    return limit.limit if slot - limit.last_reset > limit.window else limit.current


def _source_finding(sight: Sight, payment: Payment) -> Finding | None:
    """What keeps the token account from paying anything."""
    source = sight.source
    if source is None:
        return Finding("source_account_missing", sight.source_address)
    wallet, _ = wallet_pda(Pubkey.from_string(sight.swig_address))
    checks = (
        (source.mint != payment.mint, "wrong_mint", f"the account holds {source.mint}"),
        (
            source.owner != str(wallet),
            "source_owner_mismatch",
            f"the owner is {source.owner}, the wallet is {wallet}",
        ),
        (source.frozen, "source_account_frozen", sight.source_address),
    )
    return next((Finding(code, detail) for fails, code, detail in checks if fails), None)


def _funds_finding(sight: Sight, payment: Payment) -> Finding | None:
    held = sight.source.amount if sight.source else 0
    if held < payment.amount:
        return Finding("insufficient_funds", f"{held} is held, {payment.amount} is owed")
    if sight.wallet is None:
        # The program does not sign for a wallet address without rent; one that exists has it.
        return Finding("insufficient_funds", "the wallet address holds no SOL for its rent")
    return None
