"""The buyer's side: an httpx client that pays 402 answers by itself, within caps.

autopay = AutoPay(network="devnet", session_key=key, max_payment_amount=10_000, ...)
async with autopay_client(autopay) as client:
    answer = await client.get("https://api.example/weather")
"""

from session_ledger.buyer.autopay import DIALECTS, AutoPay
from session_ledger.buyer.errors import (
    ApprovalRefused,
    AssetNotAllowed,
    AutoPayError,
    GrantRefused,
    NetworkMismatch,
    OwnerSignatureRequired,
    PaidWithoutAnswer,
    PaymentRefused,
    PaymentTooLarge,
    PaymentUncertain,
    RecipientNotAllowed,
    Refusal,
    RequirementError,
    SessionKeyLocked,
    SessionMissing,
    StoreError,
    TotalExceeded,
    WalletMissing,
    WeakPin,
)
from session_ledger.buyer.mirroring import ChainLimit
from session_ledger.buyer.offers import Requirement
from session_ledger.buyer.payment import Dialect, PaymentInfo
from session_ledger.buyer.sealed_key import SealedKey
from session_ledger.buyer.session import GrantClient, KeySigner, Limits, Session, Signer
from session_ledger.buyer.store import FileStore, MemoryStore, Store
from session_ledger.buyer.transport import (
    SessionTransport,
    SyncSessionTransport,
    autopay_client,
    autopay_fetch,
    sync_autopay_client,
)

__all__ = [
    "DIALECTS",
    "ApprovalRefused",
    "AssetNotAllowed",
    "AutoPay",
    "AutoPayError",
    "ChainLimit",
    "Dialect",
    "FileStore",
    "GrantClient",
    "GrantRefused",
    "KeySigner",
    "Limits",
    "MemoryStore",
    "NetworkMismatch",
    "OwnerSignatureRequired",
    "PaidWithoutAnswer",
    "PaymentInfo",
    "PaymentRefused",
    "PaymentTooLarge",
    "PaymentUncertain",
    "RecipientNotAllowed",
    "Refusal",
    "Requirement",
    "RequirementError",
    "SealedKey",
    "Session",
    "SessionKeyLocked",
    "SessionMissing",
    "SessionTransport",
    "Signer",
    "Store",
    "StoreError",
    "SyncSessionTransport",
    "TotalExceeded",
    "WalletMissing",
    "WeakPin",
    "autopay_client",
    "autopay_fetch",
    "sync_autopay_client",
]
