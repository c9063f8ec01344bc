"""`session-ledger grant`: what a session key may spend, signed by the wallet's owner."""

from contextlib import closing
from typing import Annotated, Any, Literal

import typer

from service.adapters.system import SystemClock
from service.cli.output import AsJson, fail, show
from service.cli.purse import (
    LEDGER_DEFAULT,
    PURSE_DEFAULT,
    LedgerUrl,
    Owner,
    Pin,
    Purse,
    keep_sealed,
    owner_key,
    store_of,
)
from session_ledger.buyer import AutoPay, AutoPayError, GrantClient, Limits
from session_ledger.buyer.book import Book
from session_ledger.encoding import base58_encode
from session_ledger.grant import (
    GrantError,
    Window,
    grant_id,
    grant_message,
    parse_grant,
    revocation_message,
)
from session_ledger.x402.amounts import AmountError, to_atomic_units

_HOUR = 3_600
_MILLIS = 1_000

app = typer.Typer(
    name="grant", help="What a session key may spend, signed by its owner.", no_args_is_help=True
)

GrantId = Annotated[str | None, typer.Argument(help="The grant; without one, that of the purse.")]


@app.command()
def create(
    *,
    owner: Owner,
    recipient: Annotated[
        list[str], typer.Option(help='Whom it may pay; repeat it for more, "*" is everybody.')
    ],
    max_payment: Annotated[str, typer.Option(help="USDC for one payment at most, such as 0.01.")],
    max_total: Annotated[str, typer.Option(help="USDC in total at most.")],
    max_calls: Annotated[int, typer.Option(min=1, help="Payments at most.")],
    pin: Pin,
    hours: Annotated[float, typer.Option(min=0.01, help="How long it is valid.")] = 6,
    window_seconds: Annotated[
        int | None, typer.Option(min=1, help="Length of a rolling window.")
    ] = None,
    window_max: Annotated[
        str | None, typer.Option(help="USDC within any such window at most.")
    ] = None,
    owner_may_sign: Annotated[
        bool, typer.Option("--owner-may-sign", help="Leave single vouchers to the owner.")
    ] = False,
    network: Annotated[
        Literal["localnet", "devnet", "mainnet-beta"], typer.Option(help="Where to pay.")
    ] = "localnet",
    label: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    ledger: LedgerUrl = LEDGER_DEFAULT,
    purse: Purse = PURSE_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a session key, have the owner sign what it may spend, and register that.

    The key goes into the purse, sealed by the PIN; the owner's key is read and not kept.
    """
    if (window_seconds is None) != (window_max is None):
        raise typer.BadParameter("a window needs --window-seconds and --window-max")
    window = None
    if window_seconds is not None and window_max is not None:
        window = Window(window_seconds, _units(window_max, "--window-max"))
    limits = Limits(
        allowed_recipients=tuple(recipient),
        max_payment_amount=_units(max_payment, "--max-payment"),
        max_calls=max_calls,
        max_total_amount=_units(max_total, "--max-total"),
        window=window,
        label=label,
        owner_may_sign=owner_may_sign,
    )
    try:
        with AutoPay(
            network=network,
            max_payment_amount=0,
            max_total=0,
            allowed_recipients=[],
            owner_signer=owner_key(owner, as_json=as_json),
            ledger_url=ledger,
            store=store_of(purse, as_json=as_json),
        ) as payer:
            payer.create_session()
            payer.sealed(pin)  # a PIN that is refused is so before anything is registered
            identity = payer.register(limits, duration=round(hours * _HOUR))
            keep_sealed(purse, payer.sealed(pin))
            grant = payer.session.grant
            assert grant is not None
            show({"grantId": identity, **grant.to_json()}, as_json=as_json)
    except (AutoPayError, GrantError) as error:
        fail(str(error), as_json=as_json, code=getattr(error, "code", "grant_invalid"))


@app.command("show")
def show_grant(
    identity: GrantId = None,
    ledger: LedgerUrl = LEDGER_DEFAULT,
    purse: Purse = PURSE_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """The grant as the ledger has it: its state, and what is left of it."""
    found = identity or _of_purse(purse, as_json=as_json)
    try:
        with closing(GrantClient(ledger)) as client:
            show(client.show(found), as_json=as_json)
    except AutoPayError as error:
        fail(str(error), as_json=as_json, code=getattr(error, "code", "unavailable"))


@app.command()
def revoke(
    identity: GrantId = None,
    *,
    owner: Owner,
    ledger: LedgerUrl = LEDGER_DEFAULT,
    purse: Purse = PURSE_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """End a grant. What sellers accepted before is still paid."""
    found = identity or _of_purse(purse, as_json=as_json)
    signer, at = owner_key(owner, as_json=as_json), SystemClock().now() // _MILLIS
    signature = base58_encode(signer.sign(revocation_message(found, at)))
    try:
        with closing(GrantClient(ledger)) as client:
            show(client.revoke(found, at, signature), as_json=as_json)
    except AutoPayError as error:
        fail(str(error), as_json=as_json, code=getattr(error, "code", "unavailable"))


def _units(text: str, option: str) -> int:
    try:
        return to_atomic_units(text)
    except AmountError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _of_purse(purse: Purse, *, as_json: bool) -> str:
    store = store_of(purse, as_json=as_json)
    try:
        kept: dict[str, Any] | None = Book(store, 0).grant
        if kept is None:
            fail(f"{purse} holds no grant: name one", as_json=as_json, code="grant_not_found")
        return grant_id(grant_message(parse_grant(kept["grant"])))
    except (AutoPayError, GrantError) as error:
        fail(str(error), as_json=as_json, code="purse_unusable")
    finally:
        store.close()
