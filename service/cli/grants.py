"""`session-ledger grant`: what a session key may spend, signed by the wallet's owner."""

from collections.abc import Mapping
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
from session_ledger.buyer import AutoPay, AutoPayError, ChainLimit, GrantClient, Limits
from session_ledger.buyer.book import Book
from session_ledger.buyer.mirroring import mirror as mirror_grant
from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.grant import (
    Grant,
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
OnChainMax = Annotated[
    str | None,
    typer.Option(help="USDC that the chain may allow at most; the grant's total otherwise."),
]


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
    on_chain: Annotated[
        bool, typer.Option("--on-chain", help="Have the chain enforce the total as well.")
    ] = False,
    on_chain_max: OnChainMax = None,
    ledger: LedgerUrl = LEDGER_DEFAULT,
    purse: Purse = PURSE_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a session key, have the owner sign what it may spend, and register that.

    The key goes into the purse, sealed by the PIN; the owner's key is read and not kept. With
    --on-chain the owner signs a transaction too: the ledger may take what the wallet's grants still
    allow, and no more.
    """
    if on_chain_max is not None and not on_chain:
        raise typer.BadParameter("--on-chain-max needs --on-chain")
    at_most = _at_most(on_chain_max)
    limits = Limits(
        allowed_recipients=tuple(recipient),
        max_payment_amount=_units(max_payment, "--max-payment"),
        max_calls=max_calls,
        max_total_amount=_units(max_total, "--max-total"),
        window=_window(window_seconds, window_max),
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
            facts = _registered(payer, limits, round(hours * _HOUR), purse, pin)
            if on_chain:
                facts |= _mirrored(payer, at_most, as_json=as_json)
            show(_for_people(facts, as_json=as_json), as_json=as_json)
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
            show(_for_people(client.show(found), as_json=as_json), as_json=as_json)
    except AutoPayError as error:
        fail(str(error), as_json=as_json, code=getattr(error, "code", "unavailable"))


@app.command()
def mirror(
    *,
    owner: Owner,
    on_chain_max: OnChainMax = None,
    ledger: LedgerUrl = LEDGER_DEFAULT,
    purse: Purse = PURSE_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Have the chain enforce the grant of the purse as well: the owner signs an approval of what
    the wallet's grants still allow and what it owes, and no more."""
    at_most = _at_most(on_chain_max)
    grant, identity = _grant_of(purse, as_json=as_json)
    limit = grant.max_total_amount if at_most is None else at_most
    signer, network = owner_key(owner, as_json=as_json), NETWORKS[grant.cluster]
    try:
        with closing(GrantClient(ledger)) as client:
            found = mirror_grant(client, network, signer, identity, at_most=limit)
            facts = {"grantId": identity, **_limit_facts(found)}
            show(_for_people(facts, as_json=as_json), as_json=as_json)
    except AutoPayError as error:
        fail(str(error), as_json=as_json, code=_code_of(error))


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
            ended = client.revoke(found, at, signature)
            show(_for_people(ended, as_json=as_json), as_json=as_json)
    except AutoPayError as error:
        fail(str(error), as_json=as_json, code=getattr(error, "code", "unavailable"))


def _units(text: str, option: str) -> int:
    try:
        return to_atomic_units(text)
    except AmountError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _window(seconds: int | None, amount: str | None) -> Window | None:
    if seconds is not None and amount is not None:
        return Window(seconds, _units(amount, "--window-max"))
    if seconds is not None or amount is not None:
        raise typer.BadParameter("a window needs --window-seconds and --window-max")
    return None


def _at_most(amount: str | None) -> int | None:
    return None if amount is None else _units(amount, "--on-chain-max")


def _registered(
    payer: AutoPay, limits: Limits, duration: int, purse: Purse, pin: str
) -> dict[str, Any]:
    payer.create_session()
    payer.sealed(pin)  # a PIN that is refused is so before anything is registered
    identity = payer.register(limits, duration=duration)
    keep_sealed(purse, payer.sealed(pin))
    assert payer.session.grant is not None
    return {"grantId": identity, **payer.session.grant.to_json()}


def _mirrored(payer: AutoPay, at_most: int | None, *, as_json: bool) -> dict[str, Any]:
    """What the chain allows now; the grant stands, whatever becomes of this."""
    identity = payer.session.grant_id
    try:
        return _limit_facts(payer.mirror(at_most=at_most))
    except AutoPayError as error:
        fail(
            f"the grant {identity} is registered, and the chain does not enforce it: {error}",
            as_json=as_json,
            code=_code_of(error),
            grantId=identity,
        )


def _code_of(error: AutoPayError) -> str:
    return getattr(error, "code", type(error).__name__)


def _limit_facts(found: ChainLimit) -> dict[str, Any]:
    return {"onChainLimit": str(found.amount), "enforcedBy": list(found.enforced_by)}


def _for_people(facts: Mapping[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Who enforces the grant, in words."""
    if as_json or "enforcedBy" not in facts:
        return dict(facts)
    kinds = [kind for kind in facts["enforcedBy"] if kind != "server"]
    words = f"server and chain ({', '.join(kinds)})" if kinds else "server"
    return {**{k: v for k, v in facts.items() if k != "enforcedBy"}, "enforced by": words}


def _of_purse(purse: Purse, *, as_json: bool) -> str:
    return _grant_of(purse, as_json=as_json)[1]


def _grant_of(purse: Purse, *, as_json: bool) -> tuple[Grant, str]:
    """The grant that the purse keeps, and its id."""
    store = store_of(purse, as_json=as_json)
    try:
        kept: dict[str, Any] | None = Book(store, 0).grant
        if kept is None:
            fail(f"{purse} holds no grant: name one", as_json=as_json, code="grant_not_found")
        grant = parse_grant(kept["grant"])
        return grant, grant_id(grant_message(grant))
    except (AutoPayError, GrantError) as error:
        fail(str(error), as_json=as_json, code="purse_unusable")
    finally:
        store.close()
