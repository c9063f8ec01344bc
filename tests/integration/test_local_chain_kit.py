"""The local chain as JavaScript programs see it, through @solana/kit."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_fixtures import settings
from javascript import with_packages

from service.local.chain import USDC_DEVNET_MINT, LocalChain

NODE_DIR = Path(__file__).parents[1] / "node"

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def node() -> str:
    """The node command, with the locked packages installed once."""
    return with_packages("LOCAL CHAIN WITH @solana/kit", NODE_DIR)


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalChain]:
    chain = LocalChain(settings(slot_seconds=0.05, finalized_depth=32))
    chain.start()
    yield chain
    chain.stop()


def test_kit_builds_simulates_confirms_and_reads_a_delegated_payment(
    node: str, chain: LocalChain
) -> None:
    done = subprocess.run(
        [node, "pay.mjs", chain.url, chain.websocket_url, str(USDC_DEVNET_MINT)],
        cwd=NODE_DIR,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["simulatedErr"] is None
    assert seen["simulatedUnits"] > 0
    assert seen["level"] == "finalized"
    assert seen["transfer"]["type"] == "transferChecked"
    assert seen["transfer"]["info"]["tokenAmount"]["amount"] == "2500000"
    assert seen["memo"] == "settlement 42"
    assert (seen["source"], seen["delegated"]) == ("7500000", "500000")
    assert (seen["destination"], seen["owned"]) == ("2500000", ["2500000"])
    assert seen["refusal"]["known"]  # a preflight failure is one of kit's own errors
    assert seen["refusal"]["cause"] == 1


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (NODE_DIR / "package-lock.json").read_text()
