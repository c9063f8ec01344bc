"""`session-ledger grant` and `session-ledger pay`, as people and scripts use them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buyer_onboarding import delegation, fund
from click.testing import Result
from running import PRICE, Buyer, Seller, Service, seed
from solders.keypair import Keypair
from typer.testing import CliRunner

from service.cli.main import app
from tests.buyer_rig import listening, paid_application

PIN = "246810"


class Desk:
    """A buyer at the command line: a key file, a purse, a seller's application."""

    def __init__(
        self, service: Service, seller: Seller, buyer: Buyer, directory: Path, url: str
    ) -> None:
        self.service, self.seller, self.buyer, self.url = service, seller, buyer, url
        self.recipient = str(seller.facts["recipient"])
        self.purse = directory / "purse"
        self.owner = directory / "owner.json"
        self.owner.write_text(json.dumps(list(bytes(Keypair.from_seed(seed(buyer.name))))))

    def run(self, *words: str, pin: str = PIN, given: str | None = None) -> Result:
        return CliRunner().invoke(
            app, [*words, "--purse", str(self.purse)], env={"SESSION_PIN": pin}, input=given
        )

    def told(self, *words: str, status: int = 0, **how: Any) -> Any:
        """What a command says in JSON."""
        result = self.run(*words, "--json", **how)
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def create(self, *words: str, **how: Any) -> Any:
        options = ["--owner", str(self.owner), "--ledger", self.service.url]
        options += ["--recipient", self.recipient, "--max-payment", "0.01", "--max-total", "1"]
        return self.told("grant", "create", *options, "--max-calls", "3", *words, **how)

    def mirror(self, *words: str, **how: Any) -> Any:
        options = ("--owner", str(self.owner), "--ledger", self.service.url)
        return self.told("grant", "mirror", *options, *words, **how)

    def revoke(self) -> Any:
        how = ("--owner", str(self.owner), "--ledger", self.service.url)
        return self.told("grant", "revoke", *how)

    def taken(self) -> int:
        found = self.seller.get("/v1/sessions").json()["sessions"]
        return sum(int(each["cumulativeAmount"]) for each in found)


@pytest.fixture
def desk(service: Service, seller: Seller, buyer: Buyer, tmp_path: Path) -> Iterator[Desk]:
    recipient = str(seller.facts["recipient"])
    with listening(paid_application(service.url, seller.token, recipient, PRICE, [])) as url:
        yield Desk(service, seller, buyer, tmp_path, url)


def test_a_grant_is_created_shown_used_and_revoked(desk: Desk) -> None:
    made = desk.create("--hours", "6")
    assert made["validUntil"] - made["validFrom"] == 6 * 3_600
    assert (made["owner"], made["maxPaymentAmount"]) == (desk.buyer.address, "10000")
    shown = desk.told("grant", "show", "--ledger", desk.service.url)
    assert (shown["grantId"], shown["state"], shown["remainingCalls"]) == (
        made["grantId"],
        "active",
        3,
    )
    paid = desk.told("pay", f"{desk.url}/paid", "--max", "0.01", "--yes")
    assert (paid["status"], paid["paid"], paid["to"]) == (200, "0.01", desk.recipient)
    assert json.loads(paid["body"]) == {"served": 1}
    assert desk.taken() == PRICE
    assert desk.revoke()["state"] == "revoked"
    refused = desk.told("pay", f"{desk.url}/paid", "--max", "0.01", "--yes", status=1)
    assert refused["code"] == "grant_revoked"
    assert desk.taken() == PRICE


def test_a_grant_is_mirrored_on_the_chain_and_says_so(desk: Desk) -> None:
    fund(desk.buyer)
    made = desk.create("--on-chain")
    assert (made["onChainLimit"], made["enforcedBy"]) == ("1000000", ["server", "delegate"])
    assert delegation(desk.buyer) == (desk.service.facts["settlementAuthority"], 1_000_000)
    shown = desk.run("grant", "show", "--ledger", desk.service.url)
    assert re.search(r"enforced by\s+server and chain \(delegate\)", shown.stdout), shown.stdout
    desk.buyer.approve(1_000_001)
    shown = desk.run("grant", "show", "--ledger", desk.service.url)
    assert re.search(r"enforced by\s+server\n", shown.stdout), shown.stdout
    assert desk.mirror()["enforcedBy"] == ["server", "delegate"]
    assert delegation(desk.buyer)[1] == 1_000_000


def test_the_chain_is_allowed_no_more_than_was_agreed_to(desk: Desk) -> None:
    fund(desk.buyer)
    desk.create()
    refused = desk.create("--on-chain", status=1)
    assert refused["code"] == "ApprovalRefused"
    assert "2000000" in refused["error"]
    assert delegation(desk.buyer) == (None, 0)
    shown = desk.told("grant", "show", "--ledger", desk.service.url)
    assert (shown["grantId"], shown["enforcedBy"]) == (refused["grantId"], ["server"])
    assert desk.mirror(status=1)["code"] == "ApprovalRefused"
    agreed = desk.mirror("--on-chain-max", "2")
    assert (agreed["onChainLimit"], agreed["enforcedBy"]) == ("2000000", ["server"])
    assert delegation(desk.buyer)[1] == 2_000_000
    desk.revoke()
    assert desk.mirror(status=1)["code"] == "grant_revoked"


def test_the_price_is_shown_before_it_is_paid_and_no_means_no(desk: Desk) -> None:
    desk.create()
    asked = desk.run("pay", f"{desk.url}/paid", "--max", "0.05", given="n\n")
    assert asked.exit_code == 1
    assert re.search(rf"pays\s+0\.01 USDC\s+to\s+{desk.recipient}", asked.stdout)
    assert desk.taken() == 0
    agreed = desk.run("pay", f"{desk.url}/paid", "--max", "0.05", given="y\n")
    assert (agreed.exit_code, desk.taken()) == (0, PRICE)


def test_what_is_free_is_not_paid_for(desk: Desk) -> None:
    desk.create()
    told = desk.told("pay", f"{desk.url}/free", "--max", "0.01", "--yes")
    assert (told["status"], told["paid"]) == (200, None)
    assert desk.taken() == 0


@pytest.mark.parametrize(
    ("words", "pin", "code"),
    [
        (["--max", "0.009"], PIN, "PaymentTooLarge"),
        (["--max", "0.01", "--recipient", "11111111111111111111111111111111"], PIN,
         "RecipientNotAllowed"),
        (["--max", "0.01"], "246811", "session_key_locked"),
        (["--max", "0.01", "--network", "devnet"], PIN, "NetworkMismatch"),
    ],
)  # fmt: skip
def test_a_cap_or_a_wrong_pin_keeps_the_money(
    desk: Desk, words: list[str], pin: str, code: str
) -> None:
    desk.create()
    told = desk.told("pay", f"{desk.url}/paid", "--yes", *words, pin=pin, status=1)
    assert told["code"] == code
    assert desk.taken() == 0


def test_a_short_pin_or_a_file_that_is_no_key_registers_nothing(desk: Desk) -> None:
    assert "6 characters" in desk.create(pin="12345", status=1)["error"]
    assert not (desk.purse / "session.json").exists()
    desk.owner.write_text("[1, 2, 3]")
    assert desk.create(status=1)["code"] == "invalid_key_file"
    assert desk.told("grant", "show", status=1)["code"] == "grant_not_found"


def test_the_sealed_key_is_for_its_owner_only(desk: Desk) -> None:
    desk.create()
    assert (desk.purse / "session.json").stat().st_mode & 0o777 == 0o600
    assert (desk.purse / "purse.json").stat().st_mode & 0o777 == 0o600
