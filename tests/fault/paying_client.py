"""A buyer's process for the crash tests: buys pages one after the other, out of one purse.

Reads its plan as one line of JSON from standard input. Each page that is bought, or known to be
paid for, is a line on standard output; it starts at the first page that it is told to.
"""

import json
import sys
from pathlib import Path

from nacl.signing import SigningKey

from session_ledger.buyer import AutoPay, FileStore, PaidWithoutAnswer, sync_autopay_client


def main() -> None:
    """Buy until there is nothing left to buy."""
    plan = json.loads(sys.stdin.readline())
    payer = AutoPay(
        network="localnet",
        session_key=SigningKey(bytes.fromhex(plan["key"])),
        max_payment_amount=plan["price"],
        max_total=plan["maxTotal"],
        allowed_recipients=[plan["recipient"]],
        store=FileStore(Path(plan["store"])),
    )
    with payer, sync_autopay_client(payer, timeout=30) as client:
        for page in range(plan["first"], plan["pages"]):
            try:
                status = client.get(f"{plan['url']}/paid?{page}").status_code
            except PaidWithoutAnswer:
                status = 0
            sys.stdout.write(f"{page} {status}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
