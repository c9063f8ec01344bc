"""What nobody should send: bodies, fields, queries, paths, and messages that are hardly HTTP."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

DEEP: Final = 100_000

# Bodies that are no JSON, or JSON that no route wants. Each is sent to each route with a body.
BODIES: Final[Mapping[str, bytes]] = {
    "nothing but a brace": b"{",
    "a bare word": b"nonsense",
    "two documents": b"{}{}",
    "trailing comma": b'{"name": "x",}',
    "single quotes": b"{'name': 'x'}",
    "comment": b'{"name": "x" /* y */}',
    "NaN": b'{"name": NaN, "deposit": NaN, "voucher": NaN, "label": NaN, "pricePerUnit": NaN}',
    "Infinity": b'{"label": -Infinity, "pricePerUnit": Infinity}',
    "1e999": b'{"name": 1e999, "deposit": 1e999, "label": 1e999, "pricePerUnit": 1e999}',
    "5,000 digits": b'{"label": 1' + b"0" * 5_000 + b', "pricePerUnit": 1' + b"0" * 5_000 + b"}",
    "5,000 digits in a string": b'{"pricePerUnit": "1' + b"0" * 5_000 + b'", "x": 1}',
    "deep arrays": b"[" * DEEP,
    "deep objects": b'{"a":' * 8_000,
    "deep and closed": b'{"meters":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep enough for a recursion": b'{"label":' + b"[" * 900 + b"]" * 900 + b"}",
    "lone surrogate": b'{"name": "\\ud800", "label": "\\ud800", "channelId": "\\udfff"}',
    "lone surrogate as a name": b'{"\\ud800": 1}',
    "surrogate bytes": b'{"label": "\xed\xa0\x80"}',
    "byte order mark": b"\xef\xbb\xbf" + b'{"label": "x"}',
    "UTF-16": '{"label": "x"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"label": "x"}'.encode("utf-16-le"),
    "UTF-32": '{"label": "x"}'.encode("utf-32"),
    "Latin-1": '{"label": "é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"label": "\xc0\xaf"}',
    "NUL inside": b'{"label": "\\u0000", "name": "\\u0000", "channelId": "\\u0000"}',
    "NUL bytes": b"\x00" * 100,
    "raw control character": b'{"label": "\x01"}',
    "gzip": gzip.compress(b'{"label": "x"}'),
    "form": b"name=x&label=y",
    "XML": b'<?xml version="1.0"?><label>x</label>',
    "array": b"[]",
    "array of objects": b'[{"label": "x"}]',
    "null": b"null",
    "true": b"true",
    "a number": b"42",
    "a string": b'"label"',
    "repeated names": b'{"label": "x", "label": "y", "sourceTokenAccount": null, '
    b'"sourceTokenAccount": null}',
    "unknown name": b'{"__proto__": {"admin": true}, "constructor": 1, "vouchers": [], "x": 1}',
    "wrong types": b'{"label": [], "name": {}, "voucher": [], "vouchers": {}, "payer": 1, '
    b'"pricePerUnit": 10000, "sourceTokenAccount": true}',
    "very long name": b'{"label": "' + b"x" * 10_000 + b'"}',
    "very many names": json.dumps({f"n{n}": n for n in range(4_000)}).encode(),
    "a megabyte": b'{"label": "' + b"x" * 2**20 + b'"}',
    "brackets in strings": json.dumps({"x": "[" * 30_000}).encode(),
    "escaped quotes": b'{"x": "' + b'\\"' * 30_000,
    "backslashes": b'"' + b"\\" * 60_001,
}

VALUES: Final[Mapping[str, Any]] = {
    "negative": "-1",
    "above u64": "18446744073709551616",
    "fraction": "1.5",
    "exponent": "1e5",
    "leading zero": "01",
    "blank": " 1",
    "other digits": "١٢٣",
    "empty": "",
    "number": 1,
    "true": True,
    "list": ["1"],
    "long": "9" * 5_000,
}

QUERIES: Final = [
    "limit=0", "limit=-1", "limit=501", "limit=1e3", "limit=", "limit=%00", "limit=999999999999999",
    "limit=%D9%A1", "limit=1&limit=x", "limit=NaN", "limit=5.5", "limit=true", "limit=0x10",
    "cursor=%00", "cursor=!!!", "cursor=" + "A" * 5_000, "cursor=AAAA", "cursor=%FF%FE",
    "cursor=-1", "cursor=99999999999999999999999", "cursor=MTIz", "cursor=MSAA", "cursor=MSDtoIA=",
    "after=", "after=0", "after=1-x", "after=-1--1", "after=" + "9" * 25 + "-0", "after=%00-%00",
    "after=1-1-1", "after=99999999999999999999-1", "after=0-99999999999999999999",
    "after=%D9%A1-%D9%A1", "state=closed", "state=%00", "state=OPEN", "payer=%00",
    "payer=" + "x" * 200, "payer=%ED%A0%80", "at=", "at=-1", "at=0", "at=1.5", "at=now",
    "at=99999999999999999999", "at=2026-13-01T00:00:00Z", "at=2026-01-01", "at=2026-01-01T00:00:00",
    "at=0001-01-01T00:00:00%2B23:59", "at=9999-12-31T23:59:59-23:59", "at=%00", "at=%D9%A1",
    "at=2026-01-01T00:00:00%2B99:99", "at=999999999999999999", "at=2026-W01-1T00:00Z",
    "wait=-1", "wait=61", "wait=NaN", "wait=inf", "wait=-0.0001", "wait=1e999", "wait=x",
    "wait=%00",
    "nonce=maybe", "nonce=%00", "nonce=", "%zz=%zz", "&&&===", "a" * 20_000, "%00=%00", "limit[]=1",
    "\xff\xfe=1",
]  # fmt: skip

PATHS: Final = [
    "", "//", "%00", "%", "%zz", "%C0%AF", "%ED%A0%80", "%FF", "a%2Fb", "a%2F..%2Fb", "..",
    "%2E%2E", ".", "x" * 129, "%C3%A9" * 129, "x" * 30_000, "%F0%9F%98%80", "a%00b", ";", "a;b=c",
    "%0D%0A", "%25", "%2500", "*", "\xe9", "\xff\xfe", "a+b", "%20", "<script>", "'--",
]  # fmt: skip


def _base64(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


# Values of SIGN-IN-WITH-X that prove nothing, whoever sends them.
PROOFS: Final[Mapping[str, list[str | bytes]]] = {
    "empty or a word": ["", "x", "nonsense", "null", "{}", "Bearer x", "="],
    "JSON as it is": ['{"domain": "127.0.0.1"}'],
    "base64 of no object": [_base64(text) for text in ("null", "1", "[]", '"x"', "{", "", "{}{}")],
    "base64 of bytes": [_base64(bytes(range(256))), _base64(b"\xff" * 64), _base64(b"\x00" * 64)],
    "an object of nothing": [_base64("{}"), _base64('{"domain": null}')],
    "wrong types": [_base64('{"domain": [1], "address": {}, "nonce": 1}')],
    "repeated names": [_base64('{"domain": "a", "domain": "b"}')],
    "deep": [_base64("[" * 2_000), _base64('{"a":' * 500), _base64('{"resources": [[[[[1]]]]]}')],
    "another alphabet": ["-_-_", "e30", "e30==", "e3 0=", "e30=,e30="],
    "long": ["A" * 4_096, "A" * 5_000, "A" * 20_000, _base64('{"x": "' + "y" * 3_000 + '"}')],
    "high bytes": [b"\xff\xfe", b"\xe9" * 100, b"e30=\xa0"],
}

VERIFY: Final = b"POST /v1/vouchers/verify HTTP/1.1"
OPEN: Final = b"POST /v1/sessions HTTP/1.1"
BUYERS: Final = b"POST /mpp/session/open HTTP/1.1"
ONBOARDING: Final = b"GET /api/sessions/onboard/status?wallet=x HTTP/1.1"
HEALTH: Final = b"GET /healthz HTTP/1.1"
STREAM: Final = b"GET /v1/events/stream HTTP/1.1"
HOST: Final = b"host: test"
AUTH: Final = b"{auth}"
"""Stands for a good Authorization line."""
KEY: Final = b"idempotency-key: k"
TWO: Final = b"content-length: 2"
CHUNKED: Final = b"transfer-encoding: chunked"
CHUNK: Final = b"400\r\n" + b"x" * 1024 + b"\r\n"


class Message(NamedTuple):
    """What is sent; after a cut one the client gives up."""

    text: bytes
    cut: bool = False


def _message(*lines: bytes, body: bytes = b"", cut: bool = False) -> Message:
    return Message(b"\r\n".join((*lines, b"connection: close", b"", body)), cut)


def _verify(*lines: bytes, body: bytes = b"{}", cut: bool = False) -> Message:
    return _message(VERIFY, HOST, *lines, body=body, cut=cut)


def _chunked(body: bytes, *, cut: bool = False) -> Message:
    return _verify(AUTH, CHUNKED, body=body, cut=cut)


def _keyed(key: bytes) -> Message:
    return _verify(AUTH, b"idempotency-key: " + key, TWO)


MESSAGES: Final[Mapping[str, Message]] = {
    "nothing": Message(b"", cut=True),
    "only a line end": Message(b"\r\n\r\n", cut=True),
    "half a line": Message(b"POST /v1/vou", cut=True),
    "half the headers": Message(VERIFY + b"\r\nhost: test\r\nx-half", cut=True),
    "a body cut short": _verify(AUTH, b"content-length: 500", body=b"{", cut=True),
    "a chunk cut short": _chunked(b"1f4\r\n{", cut=True),
    "chunks without an end": _chunked(b"1\r\n{\r\n", cut=True),
    "a chunk of bad size": _chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk of huge size": _chunked(b"fffffffffffffffff\r\n{"),
    "a chunk of negative size": _chunked(b"-1\r\n{}\r\n"),
    "too many chunks": _chunked(CHUNK * 100 + b"0\r\n\r\n"),
    "chunks of nothing": _chunked(b"0\r\n\r\n"),
    "no length": _verify(AUTH, cut=True),
    "negative length": _verify(AUTH, b"content-length: -1"),
    "a word for a length": _verify(AUTH, b"content-length: many"),
    "huge length": _verify(AUTH, b"content-length: " + b"9" * 30),
    "large length": _verify(AUTH, b"content-length: 99999999999"),
    "two lengths": _verify(AUTH, TWO, b"content-length: 9"),
    "length and chunks": _verify(AUTH, TWO, CHUNKED, body=b"0\r\n\r\n"),
    "unknown coding": _verify(AUTH, b"transfer-encoding: gzip", cut=True),
    "two keys": _verify(AUTH, AUTH, TWO),
    "an empty key": _verify(b"authorization: Bearer ", TWO),
    "a key of high bytes": _verify(b"authorization: Bearer slk_\xff_\xfe", TWO),
    "a key of blanks": _verify(b"authorization: Bearer    slk_ _ ", TWO),
    "a long key": _verify(b"authorization: Bearer slk_a_" + b"x" * 60_000, TWO),
    "another scheme": _verify(b"authorization: Basic eDp5", TWO),
    "no colon": _verify(AUTH, b"nonsense", TWO),
    "a blank in a name": _verify(AUTH, b"x y: z", TWO),
    "a folded header": _verify(AUTH, b"x: a\r\n b", TWO),
    "NUL in a header": _verify(AUTH, b"x: a\x00b", TWO),
    "NUL in the path": _message(b"GET /v1/\x00 HTTP/1.1", HOST),
    "no host": _message(HEALTH),
    "two hosts": _message(HEALTH, HOST, b"host: other"),
    "a broken host": _message(OPEN, b"host: [", AUTH, KEY, TWO, body=b"{}"),
    "a host of high bytes": _message(
        OPEN, b"host: \xff]", AUTH, b"idempotency-key: k", TWO, body=b"{}"
    ),
    "an idempotency key of blanks": _keyed(b"a b"),
    "an empty idempotency key": _keyed(b""),
    "a long idempotency key": _keyed(b"k" * 256),
    "a high idempotency key": _keyed(b"\xe9"),
    "a bad event id": _message(STREAM, HOST, AUTH, b"last-event-id: \xff-1"),
    "a buyers' body cut short": _message(BUYERS, HOST, b"content-length: 500", body=b"{", cut=True),
    "a buyers' body that is too large": _message(BUYERS, HOST, b"content-length: 99999999999"),
    "a buyers' chunk of bad size": _message(BUYERS, HOST, CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "too many of a buyers' chunks": _message(
        BUYERS, HOST, CHUNKED, body=CHUNK * 100 + b"0\r\n\r\n"
    ),
    "a proof with a NUL": _message(ONBOARDING, HOST, b"sign-in-with-x: a\x00b"),
    "a proof of high bytes": _message(ONBOARDING, HOST, b"sign-in-with-x: \xff\xfe"),
    "many proofs": _message(ONBOARDING, HOST, *[b"sign-in-with-x: e30="] * 500),
    "a folded proof": _message(ONBOARDING, HOST, b"sign-in-with-x: a\r\n b"),
    "a large header": _verify(AUTH, b"x: " + b"y" * 300_000, TWO),
    "many headers": _verify(AUTH, *[b"x: y"] * 5_000, TWO),
    "a long line": _message(b"GET /" + b"a" * 200_000 + b" HTTP/1.1", HOST),
    "an unknown method": _message(b"BREW /healthz HTTP/1.1", HOST),
    "a small method": _message(b"get /healthz HTTP/1.1", HOST),
    "no version": Message(b"GET /healthz\r\n\r\n", cut=True),
    "HTTP/3": _message(b"GET /healthz HTTP/3.0", HOST),
    "HTTP/2 by prior knowledge": Message(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": Message(bytes.fromhex("16030100c8010000c40303") + b"x" * 200, cut=True),
    "an absolute address": _message(b"GET http://[/healthz HTTP/1.1", HOST),
    "another site": _message(b"GET http://example.test/healthz HTTP/1.1", HOST),
    "a tunnel": _message(b"CONNECT example.test:443 HTTP/1.1", HOST),
    "options of all": _message(b"OPTIONS * HTTP/1.1", HOST),
    "a WebSocket": _message(
        HEALTH,
        HOST,
        b"upgrade: websocket",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: eA==",
    ),
    "an expectation": _verify(AUTH, b"expect: 100-continue", TWO),
    "another expectation": _verify(AUTH, b"expect: miracle", TWO),
    "a smuggled request": _verify(
        AUTH,
        b"content-length: 0",
        body=b"DELETE /v1/sessions/bad%20input HTTP/1.1\r\nhost: t\r\n{auth}\r\n\r\n",
    ),
}
