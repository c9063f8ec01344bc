"""Makes the documents that follow from the code: errors.md, configuration.md, openapi.json.

python docs/generate.py            write them
python docs/generate.py --check    exit with 1 when one is stale
"""
# ruff: noqa: INP001

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from service.api.app import create_app
from service.api.problems import status_of
from service.api.rendering import REASONS
from service.config import Settings
from service.domain.direct_judgement import REFUSALS as DIRECT_REFUSALS
from service.domain.errors import LedgerError, VoucherRejected
from service.domain.failures import FAILURES
from service.domain.refusals import REFUSALS

DOCS: Final = Path(__file__).parent

REFERENCE_REASONS: Final = frozenset(
    {
        "missing_voucher_fields",
        "unsupported_signature_type",
        "signature_verification_failed",
        "invalid_signature",
        "recipient_mismatch",
        "signer_changed_mid_session",
        "amount_not_monotonic",
        "sequence_not_monotonic",
        "underpaid",
    }
)
"""Codes that the reference server has as well, with its spelling and its error text."""

VERDICT_REMEDIES: Final[Mapping[str, str]] = {
    "missing_voucher_fields": "Pass on the buyer's whole envelope.",
    "unsupported_signature_type": "Have the buyer sign with an Ed25519 key.",
    "signature_verification_failed": "Send base64 of 64 bytes and base58 of 32 bytes.",
    "invalid_signature": "Sign the canonical bytes of exactly this voucher; change nothing after.",
    "recipient_mismatch": "Take `recipient` from the seller's challenge.",
    "network_mismatch": "Take `chainId` from the seller's challenge.",
    "program_mismatch": "Take `channelProgram` from the seller's challenge.",
    "malformed_voucher": "Correct the field that `error` names and sign again.",
    "session_not_found": "Have the seller register the channel first.",
    "session_closed": "Open another channel.",
    "session_removed": "Open another channel.",
    "voucher_expired": "Sign a voucher with a later `expiresAt`, or open another channel.",
    "funding_revoked": "Approve the settlement key again and register another channel.",
    "signer_changed_mid_session": "Sign with the key of the session, or open another channel.",
    "payer_changed": "Name the session's payer, or open another channel.",
    "payer_unproven": "Have the buyer open the session, or sign with its wallet's own key.",
    "amount_not_monotonic": "Promise more than the session's `cumulativeAmount`. With the verdict "
    "`replayed` nothing is wrong: use `receipt`.",
    "sequence_not_monotonic": "Use a sequence above the session's `lastSequence`.",
    "underpaid": "Sign again for at least the amount that `error` names.",
    "deposit_exceeded": "Close the session and open one with a larger deposit.",
    "limit_exceeded": "Pay within the limit that `error` names, or open another channel.",
    "meter_mismatch": "Name one of the meters that `error` lists.",
    "nonce_unknown": "Fetch a challenge with `?nonce=true`; a nonce is good for one voucher.",
}

OTHER_PROBLEMS: Final = (
    ("not_found", 404, "No route has this path.", "See `/docs` for the routes."),
    ("method_not_allowed", 405, "The path has no such method.", "See `/docs` for the routes."),
    ("body_too_large", 413, "The body is larger than the route takes.", "Send less at once."),
    ("http_error", "4xx", "The request broke a rule of HTTP.", "See `detail`."),
    ("internal_error", 500, "A defect of this service.", "Report the `requestId`."),
)
OTHER_FAILURES: Final = (
    (
        "abandoned",
        "An operator gave the settlement up; `detail` says why.",
        "Nothing: it is final.",
    ),
    ("nothing_to_settle", "No voucher was accepted, so no money moves.", "Nothing: it is settled."),
)
MADE: Final = "<!-- Made by docs/generate.py. Edit the code instead. -->"

ERRORS: Final = """\
# Errors

{made}

Three things can be wrong, and each has codes of its own: a request (a *problem*), a voucher (a
*verdict*), a settlement (a *failure*). Codes are stable; texts are not.

## Problems

The request failed. The body is RFC 9457 `application/problem+json` with `code`, `detail`, `hint`,
`retryable` and `requestId`. A retryable one means that nothing acknowledged was lost.

{problems}

## Verdicts

The voucher was judged and not accepted: 200 with `valid: false`. Where the reference server has the
check, `code` is its code and `error` the exact text that it gives for the same input.

{verdicts}

## Failures of settlements

Why a settlement waits or ended without payment: `failure.code` of a settlement. The class says who
acts:

- `automatic`: the worker looks again by itself, after growing pauses. An operator's
  `session-ledger settlement retry` does not wait for the pause to end.
- `attention`: somebody must remove the cause; then `session-ledger settlement retry`.
- `bug`: these bytes can never succeed; nothing is retried.
- `final`: nothing is left to do.

{failures}

## Transactions that are not sponsored

In the answer of `POST /mpp/settle`, as `errorCode`. The buyer builds another transaction.

{refusals}

## Direct payments that are not accepted

In the answer of `POST /v1/payments/verify`, as `code`. The texts: [x402.md](x402.md#refusals).

{direct}
"""

CONFIGURATION: Final = """\
# Configuration

{made}

Everything comes from the environment, is read once at the start, and is checked before anything
runs. `session-ledger doctor` prints what a process would use, with secrets hidden.

{settings}

## Key sources

`SETTLEMENT_AUTHORITY` and `FEE_PAYER` name where a key is, never the key itself:

| source | the key is |
|---|---|
| `file:/path/to/id.json` | in a solana-keygen file that only its owner can read |
| `env:NAME` | in that variable, as base58 or a JSON array |
| `vault:KEY?pubkey=ADDRESS` | a transit key; `VAULT_ADDR` and `VAULT_TOKEN` are set |
| `aws-kms:KEY?pubkey=ADDRESS&region=REGION` | in AWS KMS; needs the extra `aws` |
| `gcp-kms:NAME?pubkey=ADDRESS` | in Google Cloud KMS; needs the extra `gcp` |

With the local chain both keys and `ADMIN_TOKEN` are made on the first start and kept in the data
directory, readable by their owner only.
"""


def documents() -> dict[str, str]:
    """Every generated document by its name in docs/."""
    return {
        "errors.md": _errors(),
        "configuration.md": _configuration(),
        "openapi.json": json.dumps(create_app(Settings()).openapi(), indent=1) + "\n",
    }


def _errors() -> str:
    missing = REASONS.keys() ^ VERDICT_REMEDIES.keys()
    if missing:
        raise SystemExit(f"docs/generate.py: VERDICT_REMEDIES and REASONS differ in {missing}")
    problems: list[tuple[object, ...]] = [
        (f"`{cls.code}`", status_of(cls), _yes(cls.retryable), _first_line(cls), cls.hint)
        for cls in sorted(_leaves(LedgerError), key=lambda cls: (status_of(cls), cls.code))
    ]
    problems += [
        (f"`{code}`", status, "no", meaning, hint) for code, status, meaning, hint in OTHER_PROBLEMS
    ]
    verdicts = [
        (f"`{code}`", _yes(code in REFERENCE_REASONS), meaning, VERDICT_REMEDIES[code])
        for code, meaning in REASONS.items()
    ]
    failures = [
        (f"`{kind.code}`", kind.failure_class, kind.meaning, kind.remedy)
        for kind in FAILURES.values()
    ]
    failures += [(f"`{code}`", "final", meaning, todo) for code, meaning, todo in OTHER_FAILURES]
    return ERRORS.format(
        made=MADE,
        problems=_table(("code", "status", "retryable", "meaning", "what to do"), problems),
        verdicts=_table(("code", "reference", "meaning", "what to do"), verdicts),
        failures=_table(("code", "class", "meaning", "what to do"), failures),
        refusals=_table(
            ("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in REFUSALS.items()]
        ),
        direct=_table(
            ("code", "meaning"),
            [(f"`{code}`", meaning) for code, meaning in DIRECT_REFUSALS.items()],
        ),
    )


def _configuration() -> str:
    rows = [
        (f"`{name.upper()}`", _values(field), _default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return CONFIGURATION.format(
        made=MADE, settings=_table(("variable", "values", "default", "meaning"), rows)
    )


def _leaves(cls: type[LedgerError]) -> Iterator[type[LedgerError]]:
    """Classes without subclasses of the service's own, except the one that is a verdict."""
    children = [c for c in cls.__subclasses__() if c.__module__.startswith("service.")]
    if not children and cls is not VoucherRejected:
        yield cls
    for child in children:
        yield from _leaves(child)


def _first_line(cls: type[LedgerError]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _values(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "`true`, `false`"
    rules = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for rule in field.metadata
        for name in ("ge", "gt", "le", "min_length")
        if (value := getattr(rule, name, None)) is not None
    }
    words = {"ge": "from", "gt": "above", "le": "to", "min_length": "of at least"}
    kind = {"int": "integer", "float": "number"}.get(
        getattr(field.annotation, "__name__", ""), "text"
    )
    unit = ("characters",) if "min_length" in rules else ()
    return " ".join((kind, *(f"{words[name]} {value}" for name, value in rules.items()), *unit))


def _default(field: FieldInfo) -> str:
    match field.default:
        case None | ():
            return ""
        case bool() as value:
            return f"`{str(value).lower()}`"
        case value:
            return f"`{value}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def main() -> int:
    """Write the documents, or compare them."""
    stale = [
        name
        for name, text in documents().items()
        if not (DOCS / name).exists() or (DOCS / name).read_text() != text
    ]
    if "--check" in sys.argv:
        for name in stale:
            sys.stderr.write(f"docs/{name} is stale: run python docs/generate.py\n")
        return 1 if stale else 0
    made = documents()
    for name in stale:
        (DOCS / name).write_text(made[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
