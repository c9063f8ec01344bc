"""Answers of the buyers' routes and of the facilitator, held against the document.

Every test's client looks: a status, a code or a member that the document does not have fails the
test that met it.
"""

import json
from functools import cache
from typing import Any, Final

import httpx
import jsonschema_rs

from service.api.app import create_app
from service.api.mpp.answers import is_wire
from service.config import Settings

JSON: Final = "application/json"
FACILITATOR: Final = ("/x402/verify", "/x402/settle", "/x402/supported")


@cache
def document() -> dict[str, Any]:
    """The published document."""
    return create_app(Settings()).openapi()


@cache
def _validator(path: str, method: str, status: str) -> jsonschema_rs.Draft202012Validator:
    content = document()["paths"][path][method]["responses"][status]["content"][JSON]
    schema = {**content["schema"], "components": document()["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def faults(path: str, method: str, status: int, body: Any) -> list[str]:
    """What of an answer is not as documented."""
    operation = document()["paths"][path][method.lower()]
    answer = operation["responses"].get(str(status))
    if answer is None:
        return [f"status {status} is not documented"]
    found = [
        f"{'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in _validator(path, method.lower(), str(status)).iter_errors(body)
    ]
    code = body.get("error")
    if code is not None and code not in answer["content"][JSON].get("examples", {}):
        found.append(f"code {code} is not documented under {status}")
    return found


def is_documented(path: str) -> bool:
    """Whether the answers of a path are held against the document."""
    return is_wire(path) or path in FACILITATOR


def check(response: httpx.Response) -> None:
    """Fail on an answer that is not as documented. A hook of httpx."""
    if is_documented(response.url.path):
        response.read()
        _check(response)


async def check_async(response: httpx.Response) -> None:
    """The same for an asynchronous client."""
    if is_documented(response.url.path):
        await response.aread()
        _check(response)


def _check(response: httpx.Response) -> None:
    path, method = response.url.path, response.request.method
    if method.lower() not in document()["paths"].get(path, {}):
        assert response.status_code in (404, 405), (method, path, response.status_code)
        return
    assert response.headers["content-type"] == JSON, (path, response.headers)
    found = faults(path, method, response.status_code, json.loads(response.content))
    assert not found, (method, path, response.status_code, found, response.text)
