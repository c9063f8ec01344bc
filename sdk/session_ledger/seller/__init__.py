"""The seller's side: ask for vouchers, have them verified, and deliver what was paid.

`SessionServer` (or `SyncSessionServer`) asks the ledger; `PaidMiddleware` charges the routes of any
ASGI application, `session_ledger.seller.fastapi.paid` single routes of FastAPI; `Streams` meters
responses that are paid for while they are delivered.
"""

from session_ledger.seller.asgi import PaidMiddleware, PaidRoute
from session_ledger.seller.errors import (
    InvalidVoucher,
    LedgerRefused,
    LedgerUnavailable,
    SellerError,
    SellerSetupError,
)
from session_ledger.seller.gate import Gate
from session_ledger.seller.server import SessionServer, SyncSessionServer
from session_ledger.seller.streaming import PaidStream, Streams, pause_event
from session_ledger.seller.transport import Patience
from session_ledger.seller.verdict import Verdict

__all__ = [
    "Gate",
    "InvalidVoucher",
    "LedgerRefused",
    "LedgerUnavailable",
    "PaidMiddleware",
    "PaidRoute",
    "PaidStream",
    "Patience",
    "SellerError",
    "SellerSetupError",
    "SessionServer",
    "Streams",
    "SyncSessionServer",
    "Verdict",
    "pause_event",
]
