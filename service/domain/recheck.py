"""An accepted voucher decided again, years later and offline, from what the log kept of it.

The voucher's own text, its signature and the price book that it was priced by must lead the same
rules to the very event that stands in the log.
"""

import base64
from dataclasses import fields

from service.domain.codec import JsonObject
from service.domain.errors import Rejected, VoucherRejected
from service.domain.events import VoucherAccepted
from service.domain.pricing import parse_charge, parse_price_book, required
from service.domain.session import Session, accept_voucher
from service.domain.voucher import Expected, verify
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.json_text import JsonTextError, parse
from session_ledger.voucher import SIGNATURE_TYPE, Envelope


def recheck_voucher(
    session: Session, event: VoucherAccepted, book: JsonObject | None
) -> str | None:
    """What is wrong with an accepted voucher; `None` when it was rightly accepted.

    `session` is the session before the event, `book` the price book of `event.price_version`.
    """
    if book is None:
        return f"the seller never published price book {event.price_version}"
    try:
        again = _decided_again(session, event, book)
    except VoucherRejected as rejected:
        return f"it would be refused: {rejected.error}"
    except (Rejected, JsonTextError) as error:
        return f"it cannot be read: {error}"
    changed = [
        field.name
        for field in fields(VoucherAccepted)
        if getattr(again, field.name) != getattr(event, field.name)
    ]
    return f"the kept voucher gives another {', '.join(changed)}" if changed else None


def _decided_again(session: Session, event: VoucherAccepted, book: JsonObject) -> VoucherAccepted:
    terms = session.terms
    envelope = Envelope(
        voucher=parse(event.voucher),
        voucher_text=event.voucher,
        signature=base64.b64encode(event.signature).decode(),
        signer=event.signer,
        signature_type=SIGNATURE_TYPE,
        others={},
    )
    network = NETWORKS.get(terms.network)
    if network is None:
        raise VoucherRejected("network_mismatch", f"no such network: {terms.network}")
    voucher = verify(envelope, Expected(terms.recipient, network.chain_id, CHANNEL_PROGRAM))
    if voucher.channel_id != terms.channel_id:
        raise VoucherRejected("channel_mismatch", "the voucher is of another channel")
    price = required(
        parse_price_book(book, version=event.price_version),
        None if event.charge is None else parse_charge(event.charge),
        voucher_meter=voucher.meter,
        voucher_units=voucher.units,
    )
    decided = accept_voucher(session, voucher, price, terms, charge=event.charge, now=event.at)
    again = decided[-1]
    assert isinstance(again, VoucherAccepted)
    return again
