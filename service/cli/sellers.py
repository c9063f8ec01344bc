"""`session-ledger seller`: sellers, their prices and their keys, on the database itself."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import typer
from pydantic import BaseModel, ValidationError

from service.api.rendering import seller_json
from service.api.schemas import NewKeyBody, NewSellerBody, PriceBookBody
from service.application import sellers
from service.application.directory import SellerDirectory
from service.application.sellers import IssuedKey, NewSeller
from service.cli.connection import OpenLedger, run_on_ledger
from service.cli.output import AsJson, fail, show, show_rows
from service.cli.settings import DataDir
from service.config import ConfigurationError
from service.domain.seller import Seller
from service.domain.units import parse_pubkey

Body = TypeVar("Body", bound=BaseModel)

app = typer.Typer(
    name="seller", help="Sellers, their prices and their API keys.", no_args_is_help=True
)

SellerId = Annotated[str, typer.Argument(help="The seller, such as slr_... .")]
PricePerUnit = Annotated[
    str | None, typer.Option(help="Price of one unit in atomic units (10000 is 0.01 USDC).")
]
PricesFile = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        exists=True,
        dir_okay=False,
        help="A price book as JSON, with pricePerUnit and meters; see docs/metering.md.",
    ),
]


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="What people call it.")],
    recipient: Annotated[str, typer.Option(help="The wallet that settlements pay.")],
    price_per_unit: PricePerUnit = None,
    prices: PricesFile = None,
    unknown_channels: Annotated[
        Literal["register", "refuse"], typer.Option(help="What a channel's first voucher does.")
    ] = "register",
    require_nonce: Annotated[
        bool, typer.Option("--require-nonce", help="Insist on a serverNonce in each voucher.")
    ] = False,
    shared_recipient: Annotated[
        bool, typer.Option("--shared-recipient", help="Another seller may have this recipient.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Register a seller; prints its API key, this once."""
    given: dict[str, Any] = {
        **_price_book(price_per_unit, prices, as_json=as_json),
        "name": name,
        "recipient": recipient,
        "unknownChannels": unknown_channels,
        "requireNonce": require_nonce,
        "sharedRecipient": shared_recipient,
    }
    body = _checked(NewSellerBody, given, as_json=as_json)

    async def run(ledger: OpenLedger) -> tuple[Seller, IssuedKey]:
        bound = await ledger.queries.bind_chain(ledger.network.chain_id)
        if bound != ledger.network.chain_id:
            raise ConfigurationError(
                f"this database belongs to {bound}, but SOLANA_NETWORK is {ledger.network.name}"
            )
        new = NewSeller(
            name=body.name,
            recipient=parse_pubkey(body.recipient, "recipient"),
            network=ledger.network.name,
            prices=body.price_book(),
            unknown_channels=body.unknown_channels,
            require_nonce=body.require_nonce,
            shared_recipient=body.shared_recipient,
            limits=body.limits.parsed(),
        )
        return await sellers.register_seller(ledger.ledger, new, ledger.clock.now())

    _show_with_key(*run_on_ledger(run, data_dir, as_json=as_json), as_json=as_json)


@app.command("list")
def list_sellers(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All sellers, by name."""

    async def run(ledger: OpenLedger) -> list[dict[str, Any]]:
        directory = SellerDirectory(ledger.ledger, ledger.queries)
        ids = await ledger.queries.seller_ids()
        return [seller_json((await directory.seller(seller_id)).seller) for seller_id in ids]

    rows = run_on_ledger(run, data_dir, as_json=as_json)
    columns = ("sellerId", "name", "pricePerUnit", "recipient")
    show_rows(rows, columns, as_json=as_json)


@app.command("show")
def show_seller(seller_id: SellerId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One seller with its price book and its keys."""

    async def run(ledger: OpenLedger) -> Seller:
        directory = SellerDirectory(ledger.ledger, ledger.queries)
        return (await directory.seller(seller_id)).seller

    show(seller_json(run_on_ledger(run, data_dir, as_json=as_json)), as_json=as_json)


@app.command("prices")
def publish_prices(
    seller_id: SellerId,
    price_per_unit: PricePerUnit = None,
    prices: PricesFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Publish the next version of the price book; accepted vouchers keep theirs."""
    given = _price_book(price_per_unit, prices, as_json=as_json)
    body = _checked(PriceBookBody, given, as_json=as_json)

    async def run(ledger: OpenLedger) -> Seller:
        now = ledger.clock.now()
        return await sellers.publish_prices(ledger.ledger, seller_id, body.price_book(), now)

    show(seller_json(run_on_ledger(run, data_dir, as_json=as_json)), as_json=as_json)


@app.command("key-issue")
def issue_key(
    seller_id: SellerId,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Issue a further API key, shown once; older keys stay valid until revoked."""
    body = _checked(NewKeyBody, {"label": label}, as_json=as_json)

    async def run(ledger: OpenLedger) -> tuple[Seller, IssuedKey]:
        now = ledger.clock.now()
        return await sellers.issue_key(ledger.ledger, seller_id, body.label, now)

    _show_with_key(*run_on_ledger(run, data_dir, as_json=as_json), as_json=as_json)


@app.command("key-revoke")
def revoke_key(
    seller_id: SellerId,
    key_id: Annotated[str, typer.Argument(help="The key's public part, as `show` lists it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key; every process refuses it within two seconds."""

    async def run(ledger: OpenLedger) -> Seller:
        return await sellers.revoke(ledger.ledger, seller_id, key_id, ledger.clock.now())

    show(seller_json(run_on_ledger(run, data_dir, as_json=as_json)), as_json=as_json)


def _price_book(price: str | None, file: Path | None, *, as_json: bool) -> dict[str, Any]:
    if (price is None) == (file is None):
        raise typer.BadParameter("give the prices by --price-per-unit or by --prices, one of them")
    if file is None:
        return {"pricePerUnit": price}
    try:
        book = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        fail(f"{file} is not JSON: {error}", as_json=as_json)
    if not isinstance(book, dict):
        fail(f"{file} must hold a JSON object", as_json=as_json)
    return cast("dict[str, Any]", book)


def _checked(cls: type[Body], given: dict[str, Any], *, as_json: bool) -> Body:
    """The same checks as over HTTP."""
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        fail(f"{place}: {first['msg']}", as_json=as_json, code="invalid_request")


def _show_with_key(seller: Seller, key: IssuedKey, *, as_json: bool) -> None:
    facts = {**seller_json(seller), "keyId": key.key_id, "apiKey": key.api_key}
    show(facts, as_json=as_json)
