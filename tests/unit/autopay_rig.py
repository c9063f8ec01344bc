"""A paying client over a shop that is played, without pauses between attempts.

Test modules import `no_pauses_fixture` to have the fixture.
"""

from collections.abc import Callable

import httpx
import pytest

from session_ledger.buyer import AutoPay, SyncSessionTransport, presenting


@pytest.fixture(name="no_pauses", autouse=True)
def no_pauses_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presenting, "PAUSES", (0.0, 0.0))


def client_of(payer: AutoPay, shop: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=SyncSessionTransport(payer, httpx.MockTransport(shop)))
