"""The operators' commands as a script sees them, beside a running service."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from service.cli import settings
from service.cli.main import app
from tests.e2e.running import PRICE, Buyer, Seller, Service, fresh, running, settled, until

SECONDS = 60


def words() -> list[tuple[str, ...]]:
    """Every command, as the words that call it."""
    found: list[tuple[str, ...]] = []

    def walk(command: Any, path: tuple[str, ...]) -> None:
        if not hasattr(command, "list_commands"):
            found.append(path)
            return
        for name in command.list_commands(None):
            walk(command.get_command(None, name), (*path, name))

    walk(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize("path", words(), ids=" ".join)
def test_every_command_explains_itself_and_speaks_json(path: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, [*path, "--help"], terminal_width=200)

    assert answer.exit_code == 0
    assert "Usage" in answer.output
    assert "--json" in answer.output


def test_the_index_names_every_word_of_the_contract_that_exists() -> None:
    names = {path[0] for path in words()}
    wanted = {"serve", "migrate", "worker", "devchain", "replay", "settlement", "seller", "doctor"}
    assert wanted <= names


def test_a_command_that_does_not_exist_is_wrong_use() -> None:
    answer = CliRunner().invoke(app, ["serv"])
    assert answer.exit_code == 2
    assert "No such command 'serv'" in answer.output


def test_the_local_chain_starts_without_the_rest_of_the_service() -> None:
    loaded = "import sys, service.cli.main, service.cli.devchain; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True).stdout
    assert b"service.local.chain" in modules.split()
    assert not {b"sqlalchemy", b"fastapi", b"service.bootstrap"} & set(modules.split())


WRONG_USE = [
    "replay --seller slr_1",
    "replay --channel ch",
    "replay --seller s --channel c --stream x",
    "replay --to-position 3",
    "replay --stream x --to-position 0",
    "replay --stream x --to-position 3 --to-time 2026-11-21T12:00:00Z",
    "replay --to-time yesterday",
    "replay --to-time 12",
    "replay --rebuild --to-time 2026-11-21T12:00:00Z",
    "replay --force",
    "replay --nonsense",
    "seller create --name only",
    "seller create --name a --recipient b",
    "seller create --name a --recipient b --price-per-unit 1 --prices /dev/null/none",
    "seller prices slr_1",
    "settlement list --status unknown",
    "settlement list --limit 0",
    "settlement show",
    "settlement abandon stl_1",
    "settlement abandon stl_1 --yes --reason ",
    "settlement abandon stl_1 --json --reason why",
    "nonsense",
]


@pytest.mark.parametrize("line", WRONG_USE)
def test_wrong_use_ends_with_status_2_before_anything_is_touched(line: str) -> None:
    words = [part or " " for part in line.split(" ")]
    assert CliRunner().invoke(app, words).exit_code == 2


@dataclass
class Operator:
    """Runs commands beside a running service, as its operator would in a shell."""

    service: Service

    def run(self, *words: str, status: int = 0) -> Any:
        """What a command prints as JSON, its exit status checked."""
        answer = self.ask(*words, "--json")
        assert answer.exit_code == status, answer.output
        return json.loads(answer.stdout) if answer.stdout else None

    def ask(self, *words: str, stdin: str = "") -> Result:
        """A command as people run it."""
        where = ("--data-dir", str(self.service.data_dir))
        return CliRunner().invoke(app, [*words, *where], input=stdin, catch_exceptions=False)


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets up its process's logging; in here the process is the tests'."""
    monkeypatch.setattr(settings, "configure_logging", lambda *_: None)


def command(
    *words: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    with running() as service:
        yield Operator(service)


def test_without_a_database_a_command_says_where_one_comes_from(tmp_path: Path) -> None:
    answer = command("replay", cwd=tmp_path)
    assert answer.returncode == 1
    assert "set DATABASE_URL, or start `session-ledger serve`" in answer.stderr


def test_a_database_that_does_not_answer_is_an_error_and_not_a_traceback() -> None:
    nowhere = "postgresql://nobody:secret@127.0.0.1:9/none"
    answer = command("seller", "list", "--json", DATABASE_URL=nowhere)

    assert answer.returncode == 1
    assert "does not answer" in json.loads(answer.stdout)["error"]
    assert "secret" not in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_wrong_password_is_an_error_and_not_a_traceback(operator: Operator) -> None:
    wrong = operator.service.facts["databaseUrl"].replace("://", "://x", 1)
    answer = command("seller", "list", "--json", DATABASE_URL=wrong)

    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr


def test_a_seller_is_created_priced_and_keyed_beside_the_service(
    operator: Operator, tmp_path: Path
) -> None:
    recipient = operator.service.buyer().address
    who = ("--name", "CLI [red]\x1b[2J seller", "--recipient", recipient)
    assert (
        "name" in operator.run("seller", "create", *who, "--price-per-unit", "7", status=1)["error"]
    )

    who = ("--name", "CLI [red] seller", "--recipient", recipient)
    made = operator.run("seller", "create", *who, "--price-per-unit", "7")
    seller_id = made["sellerId"]
    assert (made["pricePerUnit"], made["network"]) == ("7", "localnet")
    assert challenge(operator, made["apiKey"])["pricePerUnit"] == "7"
    taken = operator.run("seller", "create", *who, "--price-per-unit", "7", status=1)
    assert taken["code"] == "recipient_in_use"

    assert seller_id in [row["sellerId"] for row in operator.run("seller", "list")]
    assert "CLI [red] seller" in operator.ask("seller", "list").output
    book = tmp_path / "prices.json"
    meter = {"unit": "token", "rounding": "up", "rate": {"amount": "3", "per": "2"}}
    book.write_text(json.dumps({"pricePerUnit": "9", "meters": {"tokens": meter}}))
    priced = operator.run("seller", "prices", seller_id, "--prices", str(book))
    assert (priced["priceVersion"], priced["pricePerUnit"]) == (2, "9")

    issued = operator.run("seller", "key-issue", seller_id, "--label", "second")
    assert challenge(operator, issued["apiKey"])["pricePerUnit"] == "9"
    operator.run("seller", "key-revoke", seller_id, issued["keyId"])
    until(lambda: challenge(operator, issued["apiKey"]).get("code") == "unauthorized", seconds=10)
    shown = operator.run("seller", "show", seller_id)
    revoked = {key["label"]: key["revokedAt"] for key in shown["keys"]}
    assert revoked["first"] is None
    assert revoked["second"] is not None
    assert "apiKey" not in shown


def challenge(operator: Operator, key: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    return operator.service.http.get("/v1/challenge", headers=headers).json()


@pytest.mark.parametrize(
    "prices", ["[]", "{", '{"pricePerUnit": 1.5}', '{"pricePerUnit": "-1"}', "{}"]
)
def test_prices_that_are_none_are_refused(operator: Operator, tmp_path: Path, prices: str) -> None:
    book = tmp_path / "prices.json"
    book.write_text(prices)
    seller = operator.service.seller()

    operator.run("seller", "prices", seller.id, "--prices", str(book), status=1)

    assert operator.run("seller", "show", seller.id)["priceVersion"] == 1


def test_unknown_names_are_errors_with_a_code(operator: Operator) -> None:
    unknown = {
        "seller_not_found": ("seller", "show", "slr_none"),
        "settlement_not_found": ("settlement", "show", "stl_none"),
        "session_not_found": ("replay", "--seller", "slr_none", "--channel", "none"),
    }
    found = {code: operator.run(*line, status=1)["code"] for code, line in unknown.items()}
    assert found == {code: code for code in unknown}


@dataclass
class Waiting:
    """A session that was closed without any money behind it."""

    seller: Seller
    buyer: Buyer
    channel: str
    settlement_id: str


def closed_without_money(operator: Operator) -> Waiting:
    service = operator.service
    seller, buyer, channel = service.seller(), service.buyer(), fresh("ch")
    for number in range(1, 4):
        verdict = seller.verify(buyer.pay(seller, channel, number * PRICE, number))
        assert verdict["valid"], verdict
    closed = seller.close(channel).json()["settlement"]["settlementId"]

    settled(seller, closed, "parked")
    return Waiting(seller, buyer, channel, closed)


def test_a_parked_settlement_is_listed_explained_and_retried_until_it_is_paid(
    operator: Operator,
) -> None:
    waiting = closed_without_money(operator)
    settlement = waiting.settlement_id

    listed = operator.run("settlement", "list", "--status", "parked")
    row = next(row for row in listed if row["settlementId"] == settlement)
    assert (row["channelId"], row["amount"]) == (waiting.channel, str(3 * PRICE))
    shown = operator.run("settlement", "show", settlement)
    assert shown["failure"]["code"] == "source_account_missing"
    assert shown["failure"]["hint"]
    assert shown["attempts"] == []

    operator.service.chain.receive(waiting.seller.wallet)
    waiting.buyer.fund()
    assert operator.run("settlement", "retry", settlement)["status"] == "intended"
    settled(waiting.seller, settlement, "settled")

    done = operator.run("settlement", "show", settlement)
    assert done["attempts"][-1]["state"] == "finalized"
    again = operator.run("settlement", "retry", settlement, status=1)
    assert again["code"] == "settlement_not_retryable"
    given_up = operator.run("settlement", "abandon", settlement, "--reason", "x", "--yes", status=1)
    assert given_up["code"] == "settlement_not_abandonable"


def test_a_settlement_is_abandoned_only_on_a_clear_word(operator: Operator) -> None:
    settlement = closed_without_money(operator).settlement_id
    abandon = ("settlement", "abandon", settlement, "--reason", "paid by hand")

    operator.run(*abandon, status=2)
    for answer in ("n\n", ""):
        assert operator.ask(*abandon, stdin=answer).exit_code == 1
    assert operator.run("settlement", "show", settlement)["status"] == "parked"

    assert operator.run(*abandon, "--yes")["status"] == "abandoned"
    assert operator.run("settlement", "show", settlement)["failure"]["detail"] == "paid by hand"


def test_replay_finds_the_log_of_a_running_service_in_order(operator: Operator) -> None:
    waiting = closed_without_money(operator)
    one = ("--seller", waiting.seller.id, "--channel", waiting.channel)

    whole = operator.run("replay", "--verify-signatures")
    single = operator.run("replay", *one)
    then = operator.run("replay", *one, "--to-position", "2")

    assert (whole["differences"], whole["found"]) == (0, [])
    assert whole["vouchers"] >= 3
    assert single["state"]["cumulativeAmount"] == str(3 * PRICE)
    assert (then["events"], then["state"]["cumulativeAmount"]) == (2, str(PRICE))
    assert operator.run("replay", "--to-time", "2020-01-01T00:00:00Z")["events"] == 0
    assert "differences  0" in operator.ask("replay").stdout


def test_replay_fails_until_the_projection_is_rebuilt(operator: Operator) -> None:
    waiting = closed_without_money(operator)
    stream = f"session/{waiting.seller.id}/{waiting.channel}"
    spoil = "UPDATE streams SET projection = '{}' WHERE stream_id = $1 RETURNING 1"
    assert asyncio.run(operator.service.rows(spoil, stream))

    found = operator.run("replay", status=1)
    assert [(row["stream"], row["what"]) for row in found["found"]] == [(stream, "projection")]
    rebuilt = operator.run("replay", "--rebuild")
    assert (rebuilt["differences"], rebuilt["remaining"], rebuilt["rebuilt"]) == (1, 0, 1)
    assert operator.run("replay")["differences"] == 0


def test_doctor_finds_a_one_machine_service_healthy_and_hides_its_secrets(
    operator: Operator,
) -> None:
    where = ("--data-dir", str(operator.service.data_dir))
    report = json.loads(command("doctor", *where, "--json").stdout)
    answer = command("doctor", *where)
    text = answer.stdout + answer.stderr
    assert answer.returncode == 0

    assert report["status"] == "ok"
    failed = [check for check in report["checks"] if check["status"] == "failed"]
    assert failed == []
    names = {check["name"] for check in report["checks"]}
    assert {"database", "schema", "role", "feed", "mint", "fee payer balance"} <= names
    facts = operator.service.facts
    password = facts["databaseUrl"].split("@", maxsplit=1)[0].rsplit(":", maxsplit=1)[-1]
    for secret in (facts["adminToken"], password, str(operator.service.data_dir / "keys")):
        assert secret not in json.dumps(report) + text
    assert "ok      database  answers" in text
