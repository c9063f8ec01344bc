"""Vouchers that we sign for a buyer: amounts and sequence numbers rise, up to the deposit."""

from collections.abc import Callable

from service.domain import events as e
from service.domain.errors import (
    AmountNotRising,
    ChannelClosed,
    ChannelExpired,
    DepositExceeded,
    FundingRevoked,
)
from service.domain.session import MILLIS, Session
from service.domain.units import AtomicUsdc, UnixMillis


def sign_next(
    session: Session,
    amount: AtomicUsdc,
    sign: Callable[[int], e.VoucherSigned],
    now: UnixMillis,
) -> list[e.SessionEvent]:
    """Sign a voucher over a higher total. The same request again is no event: its voucher is known.

    `sign` makes the voucher of a sequence number; the same number gives the same bytes.

    Raises:
        ChannelClosed, FundingRevoked, ChannelExpired: no voucher is signed any more.
        AmountNotRising: the total is not above the last one.
        DepositExceeded: it is above the deposit.
    """
    if session.state != "open":
        raise ChannelClosed(f"the session is {session.state} and signs no further voucher")
    until = session.terms.valid_until
    if until is not None and until * MILLIS <= now:
        raise ChannelExpired(f"the session was valid until {until} (Unix seconds)")
    if session.funding == "revoked":
        raise FundingRevoked("the payer revoked the funding source of this session")
    last = session.signed
    same = last is not None and amount == last.cumulative_amount
    if last is not None and same and sign(last.sequence).voucher == last.voucher:
        return []
    reached, sequence = (0, 0) if last is None else (last.cumulative_amount, last.sequence)
    if amount <= reached:
        raise AmountNotRising(
            f"the amount is cumulative and must be above {reached}, got {amount}",
            last_amount=reached,
            last_sequence=sequence,
        )
    deposit = session.terms.deposit
    if deposit is not None and amount > deposit:
        raise DepositExceeded(f"the deposit is {deposit}, got {amount}")
    return [sign(sequence + 1)]
