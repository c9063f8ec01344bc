"""The seller's feed, by pages and as a stream: no event is skipped. Spec: "Sellers"."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from running import PRICE, Buyer, Caller, Seller, Service, problem_of

from service.domain.log import event_hash
from service.domain.units import StreamPosition

WRITERS = 8
CHANNELS_EACH = 12
STREAM_SECONDS = 60


def client(seller: Seller) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {seller.token}"}
    return httpx.AsyncClient(base_url=seller.service.url, headers=headers, timeout=STREAM_SECONDS)


async def messages(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """Server-sent events, without comments."""
    message: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if name:
            message[name] = value
        elif message:
            yield message
            message = {}


async def followed(seller: Seller, *, wanted: int, cut_after: int) -> list[dict[str, str]]:
    """`wanted` events of the stream, hanging up after every `cut_after` and resuming."""
    found: list[dict[str, str]] = []
    async with client(seller) as http:
        while len(found) < wanted:
            resume = {"last-event-id": found[-1]["id"]} if found else {}
            taken = 0
            async with http.stream("GET", "/v1/events/stream", headers=resume) as answer:
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/event-stream")
                async for message in messages(answer.aiter_lines()):
                    found.append(message)
                    taken += 1
                    if taken == cut_after or len(found) == wanted:
                        break
    return found


async def write(seller: Seller, buyer: Buyer, name: str) -> None:
    async with client(seller) as http:
        for channel in range(CHANNELS_EACH):
            for n in (1, 2):
                signed = buyer.pay(seller, f"{name} {channel}", n * PRICE, n)
                answer = await http.post("/v1/vouchers/verify", json=signed)
                assert answer.json()["valid"], answer.text


async def test_a_stream_that_is_cut_and_resumed_skips_nothing_while_writers_append(
    service: Service, seller: Seller
) -> None:
    buyers = [service.buyer() for _ in range(WRITERS)]
    wanted = 3 + WRITERS * CHANNELS_EACH * 3  # opened, accepted, accepted
    async with asyncio.timeout(STREAM_SECONDS), asyncio.TaskGroup() as tasks:
        readers = [
            tasks.create_task(followed(seller, wanted=wanted, cut_after=cut))
            for cut in (7, 40, wanted)
        ]
        for n, buyer in enumerate(buyers):
            tasks.create_task(write(seller, buyer, f"writer {n}"))
    query = "SELECT stream_id, position FROM events WHERE seller_id = $1"
    logged = {(row[0], row[1]) for row in await service.rows(query, seller.id)}
    assert len(logged) == wanted
    pages = [event["cursor"] for event in seller.events(limit=17)]
    for reader in readers:
        ids = [message["id"] for message in reader.result()]
        assert ids == pages
        seen = [json.loads(message["data"]) for message in reader.result()]
        channels = [(event["channelId"], event["position"]) for event in seen]
        assert len(set(channels)) == wanted
        for message, event in zip(reader.result(), seen, strict=True):
            assert (message["id"], message["event"]) == (event["cursor"], event["type"])


async def test_an_event_that_is_committed_late_is_waited_for_and_never_overtaken(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    known = len(seller.events())
    late = await asyncpg.connect(service.facts["databaseUrl"])
    try:
        slow = late.transaction()
        await slow.start()
        await late.execute(
            "INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash,"
            " hash, event_id, seller_id) SELECT stream_id || ' late', position, type,"
            " schema_version, payload, prev_hash, hash, gen_random_uuid(), seller_id"
            " FROM events WHERE seller_id = $1 AND type = 'session_opened'",
            seller.id,
        )
        assert seller.verify(buyer.pay(seller, "c", 2 * PRICE, 2))["valid"]
        assert len(seller.events()) == known
        await slow.commit()
    finally:
        await late.close()
    new = seller.events()[known:]
    assert [event["channelId"] for event in new] == ["c late", "c"]


async def test_each_stream_of_the_feed_is_in_order_and_its_hashes_chain(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    for n in range(1, 4):
        assert seller.verify(buyer.pay(seller, "é/c", n * PRICE, n))["valid"]
    pages = seller.get("/v1/events").text
    listed = json.loads(pages)["events"]
    assert [event["stream"] for event in listed] == ["seller"] * 3 + ["session"] * 4
    assert [event["channelId"] for event in listed] == [None] * 3 + ["é/c"] * 4
    rows = await service.rows(
        "SELECT stream_id, position, type, payload, hash FROM events WHERE seller_id = $1",
        seller.id,
    )
    stored = {row["hash"].hex(): row for row in rows}
    previous: dict[str, str] = {}
    for event in listed:
        row = stored[event["hash"]]
        assert (row["type"], row["position"]) == (event["type"], event["position"])
        payload = bytes(row["payload"])
        assert payload.decode() in pages  # exactly the bytes that were hashed
        assert event["prevHash"] == previous.get(event["stream"], event["prevHash"])
        previous[event["stream"]] = event["hash"]
        digest = event_hash(
            row["stream_id"],
            StreamPosition(event["position"]),
            event["type"],
            event["schemaVersion"],
            bytes.fromhex(event["prevHash"]),
            payload,
        )
        assert digest.hex() == event["hash"]


def test_a_page_says_where_the_next_one_starts(seller: Seller, buyer: Buyer) -> None:
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    whole = seller.get("/v1/events").json()
    assert whole["next"] == whole["events"][-1]["cursor"]
    first = seller.get("/v1/events", limit=2).json()
    assert first["events"] == whole["events"][:2]
    rest = seller.get("/v1/events", after=first["next"]).json()
    assert rest["events"] == whole["events"][2:]
    empty = seller.get("/v1/events", after=rest["next"]).json()
    assert empty == {"events": [], "next": rest["next"]}
    assert seller.verify(buyer.pay(seller, "c", 2 * PRICE, 2))["valid"]
    [new] = seller.get("/v1/events", after=rest["next"]).json()["events"]
    assert new["payload"]["cumulativeAmount"] == str(2 * PRICE)


def test_an_api_key_is_in_no_event(service: Service, seller: Seller) -> None:
    events = json.dumps(seller.events())
    assert seller.token not in events
    assert seller.token.split("_", 2)[2] not in events
    assert hashlib.sha256(seller.token.encode()).hexdigest() not in events


@pytest.mark.parametrize("position", ["", "x", "1", "1-", "-1-1", "0-0-0", "é"])
def test_a_position_that_the_feed_never_gave_is_refused(seller: Seller, position: str) -> None:
    answers: list[httpx.Response] = [seller.get("/v1/events", after=position)]
    if position:
        answers.append(seller.get("/v1/events/stream", after=position))
        header = {"last-event-id": position.encode("latin-1")}
        answers.append(seller.send("GET", "/v1/events/stream", headers=header))
    for answer in answers:
        problem_of(answer, 400, "invalid_request")


async def test_a_stream_starts_where_its_address_says(seller: Seller) -> None:
    second = seller.events()[1]["cursor"]
    path = f"/v1/events/stream?after={second}"
    async with client(seller) as http, http.stream("GET", path) as answer:
        async for message in messages(answer.aiter_lines()):
            assert message["id"] == seller.events()[2]["cursor"]
            return


async def test_a_revoked_key_ends_its_stream(service: Service, seller: Seller) -> None:
    issued: dict[str, Any] = service.admin.post(f"/v1/sellers/{seller.id}/keys").json()
    reader = Caller(service, issued["apiKey"])
    headers = {"authorization": f"Bearer {reader.token}"}
    async with (
        asyncio.timeout(STREAM_SECONDS),
        httpx.AsyncClient(base_url=service.url, headers=headers, timeout=STREAM_SECONDS) as http,
        http.stream("GET", "/v1/events/stream") as answer,
    ):
        service.admin.delete(f"/v1/sellers/{seller.id}/keys/{issued['keyId']}")
        async for _ in answer.aiter_lines():
            pass  # ends by itself
