"""Grants as the tests' buyers sign them."""

import time
from typing import Any

import httpx
from nacl.signing import SigningKey
from running import Buyer, Service, fresh, seed

from session_ledger.grant import (
    Grant,
    grant_id,
    grant_message,
    parse_grant,
    sign_grant,
    sign_revocation,
)


def owner_key(buyer: Buyer) -> SigningKey:
    """The wallet's own key."""
    return SigningKey(seed(buyer.name))


def grant_of(buyer: Buyer, **changes: Any) -> Grant:
    """A grant for the buyer's session key: ten calls of one price each, to anybody."""
    now = int(time.time())
    return parse_grant(
        {
            "version": 1,
            "cluster": "localnet",
            "owner": buyer.address,
            "sessionPublicKey": buyer.signer,
            "mint": str(buyer.service.chain.mint),
            "allowedEntrypoints": ["transferChecked"],
            "allowedRecipients": ["*"],
            "maxPaymentAmount": "10000",
            "maxCalls": 10,
            "maxTotalAmount": "100000",
            "validFrom": now - 60,
            "validUntil": now + 3_600,
            "nonce": fresh("nonce"),
            **changes,
        }
    )


def register(service: Service, grant: Grant, owner: SigningKey, **more: Any) -> httpx.Response:
    body = {"grant": grant.to_json(), "signature": sign_grant(grant, owner), **more}
    return service.http.post("/v1/grants", json=body)


def granted(buyer: Buyer, **changes: Any) -> str:
    """The id of a grant of the buyer's that is registered."""
    grant = grant_of(buyer, **changes)
    answer = register(buyer.service, grant, owner_key(buyer))
    assert answer.status_code == 201, answer.text
    assert answer.json()["grantId"] == grant_id(grant_message(grant))
    return answer.json()["grantId"]


def shown(service: Service, grant: str) -> dict[str, Any]:
    answer = service.http.get(f"/v1/grants/{grant}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def revoke(buyer: Buyer, grant: str, key: SigningKey | None = None) -> httpx.Response:
    at = int(time.time())
    signature = sign_revocation(grant, at, key or owner_key(buyer))
    return buyer.service.http.post(
        f"/v1/grants/{grant}/revoke", json={"signature": signature, "at": at}
    )
