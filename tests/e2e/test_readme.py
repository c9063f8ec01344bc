"""The sessions of README.md, run exactly as they are written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import Service

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
MARK = "--- block ---"


@pytest.fixture(scope="module")
def answers(service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each shell block printed: the JSON of each line."""
    script = f"\necho; echo '{MARK}'\n".join(("set -euo pipefail", *BLOCKS))
    environment = {
        "LOCAL": str(service.data_dir / "local.json"),
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
    }
    ran = subprocess.run(
        ["bash", "-c", script],
        env=environment,
        cwd=tmp_path_factory.mktemp("readme"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    printed = ran.stdout.split(MARK)[1:]
    return [[json.loads(line) for line in part.splitlines() if line] for part in printed]


def _with(answers: list[list[Any]], field: str) -> list[Any]:
    return [answer for block in answers for answer in block if field in answer]


def test_the_accounts_are_made_on_the_local_chain(answers: list[list[Any]]) -> None:
    assert len(_with(answers, "result")) == 4
    failed = [answer for answer in _with(answers, "error") if answer["error"] is not None]
    assert failed == [v for v in _with(answers, "verdict") if v.get("error") is not None]


def test_three_vouchers_are_accepted_and_the_first_again_is_replayed(
    answers: list[list[Any]],
) -> None:
    verdicts = _with(answers, "verdict")
    assert [verdict["verdict"] for verdict in verdicts] == ["accepted"] * 3 + [
        "replayed",
        "accepted",
    ]
    assert verdicts[3]["receipt"] == verdicts[0]["receipt"]


def test_the_close_settles_what_the_last_voucher_promises(answers: list[list[Any]]) -> None:
    (settlement,) = _with(answers, "confirmationStatus")
    assert (settlement["status"], settlement["amount"]) == ("settled", "30000")
    (account,) = _with(answers, "result")[2]["result"]["value"]
    assert account["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"] == "30000"


def test_the_log_keeps_the_vouchers_and_the_events(answers: list[list[Any]]) -> None:
    (history,) = _with(answers, "vouchers")
    assert [row["cumulativeAmount"] for row in history["vouchers"]] == ["10000", "20000", "30000"]
    (feed,) = _with(answers, "events")
    assert feed["events"][-1]["type"] == "settlement_finalized"


def test_a_buyers_program_onboards_pays_and_closes(answers: list[list[Any]]) -> None:
    assert [
        answer["status"] for answer in _with(answers, "buyer_wallet") if "status" in answer
    ] == [
        "transactions_required",
        "ready",
    ]
    (opened,) = _with(answers, "session_pubkey")
    verdict = _with(answers, "verdict")[-1]
    assert verdict["receipt"]["channelId"] == opened["channel_id"]
    (closed,) = [answer for answer in _with(answers, "settlement") if "success" in answer]
    assert closed["settlement"]["amount_settled"] == "10000"
    assert closed["settlement"]["buyer_refund"] == "990000"


def test_a_single_payment_is_asked_for_at_the_sellers_price(answers: list[list[Any]]) -> None:
    (asked,) = _with(answers, "accepts")
    (wanted,) = asked["accepts"]
    assert (wanted["maxAmountRequired"], wanted["scheme"]) == ("10000", "solanaTransferChecked")
    assert wanted["extra"]["memo"]
