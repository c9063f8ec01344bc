"""Schemathesis against the running service: what the document says is what the routes do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import PRICE, Buyer, Caller, Seller, Service

SECONDS = 8  # for each of three runs
CAMPAIGN_SECONDS = int(os.environ.get("FUZZ_SECONDS", "900"))
SELLERS, BUYERS = "^/v1/sellers", "^/(mpp|api|x402)/"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)


def fuzz(caller: Caller, directory: Path, *filters: str, seconds: int, seed: int | None) -> str:
    """One run; fails with its report when a check does. The stream never ends, so it stays out."""
    # A close would wait for its settlement, for up to a minute.
    (directory / "schemathesis.toml").write_text('[parameters]\n"query.wait" = 0\n')
    url = f"{caller.service.url}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", url, "--no-color"]
    command += ["--checks", ",".join(CHECKS), "--max-time", str(seconds), "--warnings", "off"]
    command += ["-H", f"Authorization: Bearer {caller.token}", "--request-timeout", "30"]
    command += ["--exclude-path", "/v1/events/stream", "--phases", "examples,coverage,fuzzing"]
    command += ["--suppress-health-check", "all", "--continue-on-failure", *filters]
    command += [] if seed is None else ["--seed", str(seed)]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=seconds + 120, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    return done.stdout


def everything(
    seller: Seller, buyer: Buyer, directory: Path, seconds: int, seed: int | None
) -> str:
    assert seller.verify(buyer.pay(seller, "0", PRICE, 1))["valid"]
    log = len(seller.service.logged())
    others = ("--exclude-path-regex", f"{SELLERS}|{BUYERS}")
    own = fuzz(seller, directory, *others, seconds=seconds, seed=seed)
    admin = seller.service.admin
    operators = fuzz(admin, directory, "--include-path-regex", SELLERS, seconds=seconds, seed=seed)
    buyers = fuzz(seller, directory, "--include-path-regex", BUYERS, seconds=seconds, seed=seed)
    assert "request_crashed" not in seller.service.logged()[log:]
    assert seller.verify(buyer.pay(seller, "afterwards", PRICE, 1))["valid"]
    return own + operators + buyers


def test_the_routes_do_what_the_document_says(
    service: Service, seller: Seller, buyer: Buyer, tmp_path: Path
) -> None:
    report = everything(seller, buyer, tmp_path, SECONDS, seed=1)
    assert re.search(r"[1-9]\d* generated|[1-9]\d* tested|test cases", report), report


@pytest.mark.campaign
@pytest.mark.timeout(3 * CAMPAIGN_SECONDS + 300)
def test_the_routes_do_what_the_document_says_for_long(
    service: Service, seller: Seller, buyer: Buyer, tmp_path: Path
) -> None:
    print(everything(seller, buyer, tmp_path, CAMPAIGN_SECONDS, seed=None))
