"""What a voucher under a grant costs the database, and what replay says of it."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from log_fixtures import Log, opened
from nacl.signing import SigningKey

from service.adapters.postgres.connections import reader_engine
from service.adapters.postgres.grants import PostgresGrantStore
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.application.nonces import Nonces
from service.application.replay import Replay, Scope
from service.application.seller_terms import SellerTerms
from service.application.sellers import NewSeller, register_seller
from service.application.session_grants import GrantPolicy, SessionGrants
from service.application.streams import GRANT, grant_stream
from service.application.submit_voucher import submit_vouchers
from service.application.verdicts import Submission, Verdict
from service.domain.units import UnixMillis
from service.ports import Append, Rejection
from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.grant import parse_grant, sign_grant
from session_ledger.voucher import parse_envelope, sign_voucher

NOW = UnixMillis(1_700_000_000_000)
OWNER = SigningKey(bytes([1]) * 32)
SESSION = SigningKey(bytes([2]) * 32)
RECIPIENT = base58_encode(bytes([3]) * 32)
PAYER = base58_encode(bytes(OWNER.verify_key))


class NoTrace:
    """Nothing is kept of refusals."""

    def note(self, rejection: Rejection) -> None:
        """Forget it."""


@dataclass
class Rig:
    """A seller at one atomic unit, and what its vouchers ask of the database."""

    log: Log
    terms: SellerTerms
    reads: int = 0
    appends: list[Append] = field(default_factory=list[Append])

    async def pay(self, channel: str, amount: int, key: SigningKey, **more: Any) -> Verdict:
        fields = {
            "channelId": channel,
            "payer": PAYER,
            "recipient": RECIPIENT,
            "cumulativeAmount": str(amount),
            "sequence": amount,
            **more,
        }
        envelope = parse_envelope(json.dumps(sign_voucher(fields, key)))
        nonces = Nonces(bytes(32))
        (verdict,) = await submit_vouchers(
            self.log.ledger, NoTrace(), nonces, self.terms, [Submission(envelope)], now=NOW
        )
        return verdict

    async def grant(self, **changes: Any) -> str:
        grants = SessionGrants(
            ledger=self.log.ledger,
            store=PostgresGrantStore(self.log.store),
            funding={},
            policy=GrantPolicy(NETWORKS["localnet"], 3_600),
        )
        start = NOW // 1_000
        members = {
            "version": 1,
            "cluster": "localnet",
            "owner": PAYER,
            "sessionPublicKey": base58_encode(bytes(SESSION.verify_key)),
            "mint": NETWORKS["localnet"].usdc_mint,
            "allowedEntrypoints": ["transferChecked"],
            "allowedRecipients": [RECIPIENT],
            "maxPaymentAmount": "10",
            "maxCalls": 5,
            "maxTotalAmount": "50",
            "validFrom": start,
            "validUntil": start + 60,
            "nonce": "n",
            **changes,
        }
        signature = sign_grant(parse_grant(members), OWNER)
        outcome = await grants.register(members, signature, None, NOW)
        assert outcome.state is not None
        return outcome.state.terms.grant_id


@pytest.fixture
async def rig(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    async with opened(ledger_url) as log:
        new = NewSeller("seller", RECIPIENT, "localnet", {"pricePerUnit": "1"})
        seller, _ = await register_seller(log.ledger, new, NOW)
        made = Rig(log, SellerTerms.of(seller))
        fetch, append = log.store.fetch, log.store.append

        async def counted(*arguments: Any) -> Any:
            made.reads += 1
            return await fetch(*arguments)

        async def noted(given: Append) -> None:
            made.appends.append(given)
            await append(given)

        monkeypatch.setattr(log.store, "fetch", counted)
        monkeypatch.setattr(log.store, "append", noted)
        yield made


def written(appends: Sequence[Append]) -> list[list[str]]:
    """The events of each append."""
    return [[row.type for s in append.streams for row in s.rows] for append in appends]


def uses(appends: Sequence[Append]) -> list[dict[str, Any]]:
    """What was used up of a grant."""
    rows = [row for append in appends for stream in append.streams for row in stream.rows]
    return [json.loads(row.payload) for row in rows if row.type == "grant_used"]


async def test_a_voucher_without_a_grant_reads_nothing_and_writes_one_event(rig: Rig) -> None:
    await rig.pay("free", 1, OWNER)
    rig.reads, rig.appends = 0, []
    for amount in (2, 3):
        assert (await rig.pay("free", amount, OWNER)).kind == "accepted"
    assert (rig.reads, written(rig.appends)) == (0, [["voucher_accepted"]] * 2)


async def test_a_voucher_under_a_grant_reads_nothing_and_writes_both_in_one_append(
    rig: Rig,
) -> None:
    grant_id = await rig.grant()
    rig.appends = []
    await rig.pay("bound", 1, SESSION, grantId=grant_id)
    assert written(rig.appends) == [["session_opened", "voucher_accepted", "grant_used"]]
    rig.reads, rig.appends = 0, []
    for amount in (2, 4):
        assert (await rig.pay("bound", amount, SESSION)).kind == "accepted"
    assert (rig.reads, written(rig.appends)) == (0, [["voucher_accepted", "grant_used"]] * 2)
    used = uses(rig.appends)
    assert [use["amount"] for use in used] == ["1", "2"]  # what each one adds to its channel
    sessions = [append.streams[0].stream_id for append in rig.appends]
    assert [use["streamId"] for use in used] == sessions
    assert sessions[0].endswith("/bound")


async def test_a_process_that_forgot_the_channel_still_finds_its_grant(
    rig: Rig, ledger_url: str
) -> None:
    grant_id = await rig.grant(maxCalls=2)
    await rig.pay("bound", 1, SESSION, grantId=grant_id)
    async with opened(ledger_url) as other:
        there = Rig(other, rig.terms)
        assert (await there.pay("bound", 2, SESSION)).kind == "accepted"
        refused = await there.pay("bound", 3, SESSION)
        assert refused.reason == "grant_max_calls_exceeded"
    assert (await rig.pay("bound", 3, SESSION)).reason == "grant_max_calls_exceeded"


async def test_a_grant_is_replayed_and_its_tables_are_made_again(rig: Rig, ledger_url: str) -> None:
    grant_id = await rig.grant()
    for amount in (1, 2):
        await rig.pay("bound", amount, SESSION, grantId=grant_id)
    stream_id = grant_stream(grant_id).stream_id
    engine = reader_engine(ledger_url, pool_size=3)
    try:
        replay = Replay(PostgresReplayStore(engine), rig.log.store)
        assert (await replay.run(Scope(verify_vouchers=True))).differences == []
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM grants")
            await connection.exec_driver_sql(
                "UPDATE streams SET projection = '{}' WHERE kind = 'grant'"
            )
        found = await replay.run(Scope(stream_id=stream_id, rebuild=True))
        assert {difference.what for difference in found.differences} == {"projection", "lookup"}
        assert (await replay.run(Scope())).differences == []
    finally:
        await engine.dispose()
    (row,) = await PostgresGrantStore(rig.log.store).grants(PAYER, limit=5, after=None)
    assert GRANT.load(row.projection).calls_used == 2
