"""A test kit for sellers: a wallet, a client that pays and checks, and a server that is paid.

Needs the extra `session-ledger-client[testing]`. For test chains only.
"""

from session_ledger.testing.client import PaidRequest, PaidResponse, pay
from session_ledger.testing.server import PaidCall, PaidServer, Route
from session_ledger.testing.wallet import Payment, Wallet
from session_ledger.x402.errors import (
    PaymentCreationError,
    PaymentVerificationError,
    X402AssertionError,
    X402Error,
    X402ParseError,
)

__all__ = [
    "PaidCall",
    "PaidRequest",
    "PaidResponse",
    "PaidServer",
    "Payment",
    "PaymentCreationError",
    "PaymentVerificationError",
    "Route",
    "Wallet",
    "X402AssertionError",
    "X402Error",
    "X402ParseError",
    "pay",
]
