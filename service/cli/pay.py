"""`session-ledger pay URL`: one request, paid if it must be, after showing what it costs."""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import typer

from service.cli.output import AsJson, fail, show
from service.cli.purse import PURSE_DEFAULT, Pin, Purse, seed_of, session_key, store_of
from session_ledger.buyer import AutoPay, AutoPayError, Requirement, SyncSessionTransport
from session_ledger.buyer.book import Book
from session_ledger.buyer.chain_wallet import ChainWallet
from session_ledger.x402.amounts import AmountError, from_atomic_units, to_atomic_units

_TIMEOUT_SECONDS = 60


def pay(
    url: Annotated[str, typer.Argument(help="What to buy, with GET.")],
    *,
    max_usdc: Annotated[str, typer.Option("--max", help="Pay at most so much USDC, such as 0.05.")],
    pin: Pin,
    network: Annotated[
        Literal["localnet", "devnet", "mainnet-beta"] | None,
        typer.Option(help="Where to pay; else where the grant is for."),
    ] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="Pay only this address; repeat it for more.")
    ] = None,
    wallet: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Key file for sellers that want transactions."
        ),
    ] = None,
    rpc_url: Annotated[str, typer.Option(help="Node for --wallet.")] = "http://127.0.0.1:8899",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pay without asking.")] = False,
    purse: Purse = PURSE_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Get URL and pay for it with the purse's session, up to --max. Asks before it pays.

    Exit status 1 when it was not bought.
    """
    if as_json and not yes:
        raise typer.BadParameter("--json asks nothing: add --yes", param_hint="--yes")
    try:
        cap = to_atomic_units(max_usdc)
    except AmountError as error:
        raise typer.BadParameter(str(error), param_hint="--max") from None
    key = session_key(purse, pin, as_json=as_json)
    store = store_of(purse, as_json=as_json)
    try:
        book = Book(store, 0)
        with AutoPay(
            network=network or _network_of(book),
            session_key=key,
            max_payment_amount=cap,
            max_total=book.signed + cap,
            allowed_recipients=recipient or ["*"],
            store=store,
            wallet=None
            if wallet is None
            else ChainWallet(rpc_url, seed_of(wallet, as_json=as_json)),
        ) as payer:
            _buy(payer, url, yes=yes, as_json=as_json)
    except AutoPayError as error:
        code = getattr(error, "code", None) or type(error).__name__
        fail(str(error), as_json=as_json, code=code)
    except httpx.HTTPError as error:
        fail(f"{url}: {error}", as_json=as_json, code="unreachable")


def _network_of(book: Book) -> str:
    """The network that the purse's grant is for."""
    match book.grant:
        case {"grant": {"cluster": str(name)}}:
            return name
        case _:
            return "localnet"


def _buy(payer: AutoPay, url: str, *, yes: bool, as_json: bool) -> None:
    with httpx.Client(timeout=_TIMEOUT_SECONDS) as plain:
        first = plain.get(url)
    unpaid = first.status_code == HTTPStatus.PAYMENT_REQUIRED
    asked = payer.requirement(first, url) if unpaid else None
    if asked is None:
        _answer(first, payer, as_json=as_json)
        return
    if not yes:
        show(_price(asked), as_json=False)
        typer.confirm("Pay?", abort=True, err=True)
    transport = SyncSessionTransport(payer)
    with httpx.Client(transport=transport, timeout=_TIMEOUT_SECONDS) as client:
        _answer(client.get(url), payer, as_json=as_json)


def _price(asked: Requirement) -> dict[str, Any]:
    return {
        "pays": f"{from_atomic_units(asked.amount)} USDC",
        "to": asked.recipient,
        "network": asked.network,
        "by": {"session": "voucher"}.get(asked.dialect, f"transaction ({asked.dialect})"),
    }


def _answer(response: httpx.Response, payer: AutoPay, *, as_json: bool) -> None:
    paid = payer.last_payment
    facts: dict[str, Any] = {"status": response.status_code}
    facts["paid"] = None if paid is None else from_atomic_units(paid.amount)
    if paid is not None:
        facts |= {"to": paid.recipient, "channelId": paid.channel_id, "txHash": paid.tx_hash}
    show({**facts, "body": response.text}, as_json=as_json)
    if response.is_error:
        raise typer.Exit(1)
