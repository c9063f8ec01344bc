"""What the chain has to allow for a wallet's grants, and when it enforces one of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fakes import TOKEN_PROGRAM
from log_fixtures import Log
from settlement_rig import AUTHORITY, MINT, PAYER, SOL
from solders.pubkey import Pubkey

from service.adapters.postgres.grants import PostgresGrantStore
from service.adapters.postgres.watching import PostgresWatchStore
from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.funding_swig import SwigFunding, buyer_swig_ids
from service.adapters.solana.swig_actions import All, Program, TokenLimit
from service.adapters.solana.swig_instructions import swig_pda, update_authority_v1, wallet_pda
from service.application.close_session import close_session, remove
from service.application.commit import Ledger
from service.application.session_grants import GrantPolicy, SessionGrants
from service.application.streams import Stream, grant_stream
from service.domain import grants as rules
from service.domain.grant_events import GrantTerms
from service.domain.grants import Grant, Use
from service.domain.session import Session
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import Chain, NextLook
from session_ledger.challenge import NETWORKS
from tests.integration.onboarding_rig import BALANCE, LIMIT, World, asking, world_fixture
from tests.integration.swig_world import steps_of
from tests.integration.watch_rig import HOW, WatchRig, account, rig_fixture, wallet
from tests.swig_cases import SWIG_PROGRAM, Given, plain, swig_bytes

__all__ = ["rig_fixture", "world_fixture"]

DAY = 86_400


async def registered(
    log: Log, name: str, owner: str, total: int, now: UnixMillis, **changes: Any
) -> str:
    """A grant of the owner's in the log; its id."""
    seconds = now // 1_000
    terms = GrantTerms(
        grant_id=name * 43,
        owner=owner,
        session_pubkey="session",
        network="localnet",
        mint=MINT,
        recipients=("*",),
        max_payment=AtomicUsdc(total),
        max_calls=9,
        max_total=AtomicUsdc(total),
        window_seconds=None,
        window_max=None,
        valid_from=seconds,
        valid_until=seconds + DAY,
        owner_may_sign=False,
        label=None,
    )
    terms = replace(terms, **changes)
    await log.ledger.commit(
        grant_stream(terms.grant_id),
        lambda held: rules.register(held, terms, "{}", bytes(64), previous=None, now=now),
    )
    return terms.grant_id


async def used(log: Log, grant_id: str, owner: str, amount: int, now: UnixMillis) -> None:
    session = Terms("ch", "slr_1", owner, "anybody", "localnet", MINT, 6)
    voucher = Use(session, "session/slr_1/ch", "session", AtomicUsdc(amount), bytes(32))

    def decide(grant: Grant | None) -> Sequence[Any]:
        assert grant is not None
        return rules.use(grant, voucher, now)

    await log.ledger.commit(grant_stream(grant_id), decide)


async def test_what_may_be_taken_is_what_grants_allow_and_sessions_are_owed(rig: WatchRig) -> None:
    log, now, owner = rig.log, rig.clock.now(), wallet("buyer")
    store = PostgresGrantStore(log.store)
    reserved: list[str] = []

    async def outstanding(later: int = 0) -> tuple[int, int]:
        at = UnixMillis(now + later)
        found = await store.outstanding(
            owner,
            "a" * 43,
            account=account("buyer"),
            reserved=reserved,
            now=at,
        )
        return found.wallet, found.grant

    async def close(stream: Stream[Session]) -> None:
        await close_session(log.ledger, stream, HOW, source=None, by="slr_1", now=now)

    assert await outstanding() == (0, 0)
    ours = await registered(log, "a", owner, 100, now)
    assert await outstanding() == (100, 100)
    await used(log, ours, owner, 30, now)
    under = await rig.open("under", grant_id=ours, deposit=AtomicUsdc(10_000))
    assert await rig.pay(under, 30) == "accepted"
    assert await outstanding() == (100, 100)
    # Grants that are over allow nothing, and another owner's is not ours.
    await registered(log, "b", owner, 11, now, valid_from=now // 1_000 + 600)
    assert await outstanding() == (111, 100)
    calls = await registered(log, "c", owner, 1_000, now, max_calls=1)
    await used(log, calls, owner, 5, now)
    ended = await registered(log, "d", owner, 1_000, now)
    assert await outstanding() == (1_111, 100)
    await log.ledger.commit(
        grant_stream(ended), lambda held: rules.revoke(held, 0, bytes(64), now) if held else []
    )
    await registered(log, "e", owner, 1_000, now, valid_until=now // 1_000 - 31)
    await registered(log, "f", wallet("other"), 1_000, now)
    assert await outstanding() == (111, 100)
    assert await outstanding(DAY * 1_000 + 30_000) == (111, 100)  # clocks may differ
    assert await outstanding(DAY * 1_000 + 30_001) == (30, 30)  # what is owed stays
    # Outside of grants: what is owed, and the deposit where a buyer's session reserved it.
    free = await rig.open("free", deposit=AtomicUsdc(10_000))
    assert await rig.pay(free, 7) == "accepted"
    assert await outstanding() == (118, 100)
    own = await rig.open("own", deposit=AtomicUsdc(90), opened_by="buyer")
    assert await rig.pay(own, 20) == "accepted"
    assert await outstanding() == (208, 100)
    # A close fixes what is owed, and a removal hides a session without forgetting it.
    await close(own)
    assert await outstanding() == (138, 100)
    await remove(log.ledger, own, by="slr_1", now=now)
    assert await outstanding() == (138, 100)
    hidden = await rig.open("hidden", deposit=AtomicUsdc(90), opened_by="buyer")
    assert await rig.pay(hidden, 4) == "accepted"
    await remove(log.ledger, hidden, by="slr_1", now=now)
    reserved += [hidden.stream_id, own.stream_id, under.stream_id]
    assert await outstanding() == (142, 100)
    # What is settled is owed no more, though its reservation may not be released yet.
    await rig.grant("buyer", 1_000)
    assert await rig.settle(own) == ["settled"]
    assert await outstanding() == (122, 100)
    empty = await rig.open("empty", deposit=AtomicUsdc(90), opened_by="buyer")
    await close(empty)
    assert await outstanding() == (122, 100)
    # Somebody else's session out of the same account, as two managers of one Swig wallet have.
    shared = await rig.open("shared", "other")
    assert await rig.pay(shared, 5) == "accepted"
    assert await outstanding() == (122, 100)
    noted = NextLook(shared.stream_id, None, account("buyer"))
    await PostgresWatchStore(log.store).schedule([noted])
    assert await outstanding() == (127, 100)


def grants_over(world: World, chain: Chain) -> SessionGrants:
    return SessionGrants(
        ledger=Ledger(world.log.store),
        store=PostgresGrantStore(world.log.store),
        funding={
            "delegate": DelegateFunding(chain, AUTHORITY, TOKEN_PROGRAM),
            "swig": SwigFunding(chain, AUTHORITY, TOKEN_PROGRAM),
        },
        policy=GrantPolicy(NETWORKS["localnet"], DAY),
    )


async def test_a_swig_role_is_lowered_to_the_grant_and_then_enforces_it(world: World) -> None:
    total, now = LIMIT - 1, world.clock.now()
    grants = grants_over(world, world.local.chain)
    name = await registered(world.log, "a", PAYER, total, now)
    grant = await grants.show(name)
    swig = swig_pda(buyer_swig_ids(PAYER)[0])[0]
    buyer, token_wallet = Pubkey.from_string(PAYER), str(wallet_pda(swig)[0])

    async def role_of(limit: int) -> None:
        roles: list[Given] = [
            plain(0, PAYER, All()),
            plain(6, AUTHORITY, TokenLimit(MINT, limit), Program(TOKEN_PROGRAM)),
        ]
        changes = {"lamports": SOL, "owner": SWIG_PROGRAM, "data": swig_bytes(*roles).hex()}
        await world.local.rpc("surfnet_setAccount", str(swig), changes)
        await world.local.fund(token_wallet, 890_880)
        await world.local.set_tokens(token_wallet, amount=BALANCE)
        await world.local.advance(40)

    await role_of(LIMIT)
    process = world.process(kind="swig")
    assert (await process.onboard(asking())).status == "ready"
    assert await grants.enforced_by_chain(grant, now) is None
    limit = await grants.limit_for_chain(name, PAYER, now)
    assert limit == total
    asked = await process.onboard(asking(spend_limit=limit, exactly=True))
    assert asked.status == "transactions_required"
    assert asked.wallet.issued is not None
    (issued,) = asked.wallet.issued.transactions
    (step,) = steps_of(issued.message)
    wanted = (TokenLimit(MINT, total), Program(TOKEN_PROGRAM))
    expected = update_authority_v1(swig, buyer, (0, buyer), 6, wanted)
    assert (issued.type, step.program_id, step.data) == (
        "add_role",
        expected.program_id,
        expected.data,
    )
    await role_of(total)
    done = await process.onboard(asking(spend_limit=limit, exactly=True))
    assert done.status == "ready"
    assert done.wallet.onboarded is not None
    assert (done.wallet.onboarded.kind, done.wallet.onboarded.spend_limit) == ("swig", total)
    assert await grants.enforced_by_chain(grant, now) == "swig"
    await role_of(total - 1)  # less than the grant still enforces it, and is raised on request
    assert await grants.enforced_by_chain(grant, now) == "swig"
    again = await process.onboard(asking(spend_limit=limit, exactly=True))
    assert again.status == "transactions_required"


async def test_a_chain_that_does_not_answer_enforces_nothing(world: World) -> None:
    now = world.clock.now()
    grants = grants_over(world, world.local.chain)
    name = await registered(world.log, "a", PAYER, LIMIT, now)
    grant = await grants.show(name)
    await world.local.set_tokens(PAYER, amount=1, delegate=AUTHORITY, delegated_amount=LIMIT)
    await world.local.advance(40)
    assert await grants.enforced_by_chain(grant, now) == "delegate"
    await world.fault("getMultipleAccounts")
    assert await grants.enforced_by_chain(grant, now) is None
    assert await grants.limit_for_chain(name, PAYER, now) == LIMIT  # the log alone says that
