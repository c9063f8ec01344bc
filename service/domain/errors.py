"""The exceptions of the ledger, one class per outcome that a caller can act on.

    LedgerError
    |-- Rejected           the caller's fault: another request may succeed, this one never will
    |   |-- InvalidRequest, Unauthorized, NotFound, ...
    |   `-- VoucherRejected    a verdict, not a failure: answered with 200 and `valid: false`
    |-- Conflict           lost a race: deciding again may succeed
    |-- Unavailable        the database or the chain does not answer: nothing was lost, try again
    `-- Corrupt            the log, a hash or a projection disagree: stop and call an operator

Nothing of HTTP here: `api/problems.py` maps each class to its status code.
"""

from typing import ClassVar


class LedgerError(Exception):
    """Root of the tree. `code` is stable snake_case; `hint` says what to do about it."""

    code: ClassVar[str] = "ledger_error"
    hint: ClassVar[str] = "See docs/errors.md."
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Rejected(LedgerError):
    """The request can never succeed as it stands."""

    code = "rejected"


class InvalidRequest(Rejected):
    """The body, a parameter or a header does not have the documented form."""

    code = "invalid_request"
    hint = "Correct the named field and send the request again."


class Unauthorized(Rejected):
    """No valid bearer key was sent."""

    code = "unauthorized"
    hint = "Send `Authorization: Bearer <key>`; an operator issues seller keys."


class SellerNotFound(Rejected):
    """No seller has this id."""

    code = "seller_not_found"
    hint = "List the sellers with `session-ledger seller list`."


class SessionNotFound(Rejected):
    """No voucher was verified and no open recorded for this channel, or it was removed."""

    code = "session_not_found"
    hint = "Check the channel id; a session appears with its first verified voucher."


class SettlementNotFound(Rejected):
    """No settlement of this seller has this id."""

    code = "settlement_not_found"
    hint = "The id is in the answer to the close request."


class SessionExists(Rejected):
    """The channel is already registered with other terms."""

    code = "session_exists"
    hint = "Read the session; choose another channel id for other terms."


class SessionNotOpen(Rejected):
    """The operation needs an open session."""

    code = "session_not_open"
    hint = "Read the session's state; a closed channel stays closed."


class RecipientInUse(Rejected):
    """Another seller has this recipient on this network; one voucher would be accepted twice."""

    code = "recipient_in_use"
    hint = "Use one seller with several meters, or pass `sharedRecipient: true`."


class IdempotencyKeyReused(Rejected):
    """The Idempotency-Key was used before with another request."""

    code = "idempotency_key_reused"
    hint = "Use a fresh key for each different request."


class FundingSourceUnknown(Rejected):
    """The session has value to settle, but no account to take it from is known."""

    code = "funding_source_unknown"
    hint = "Name `sourceTokenAccount`, or `payer` with an associated token account, in the request."


class FundingSourceRefused(Rejected):
    """The account that should pay cannot; `reason` is the finding's code, as in docs/errors.md."""

    code = "funding_source_refused"
    hint = "Do what `detail` says, then send the request again."

    def __init__(self, detail: str, reason: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason


class ChannelNotFound(Rejected):
    """No session was opened here under this channel id."""

    code = "channel_not_found"
    hint = "Open a session first; channel ids are in the answer to the open."


class ChannelClosed(Rejected):
    """The session was closed; nothing is signed or accepted any more."""

    code = "channel_already_closed"
    hint = "Open another session."


class ChannelExpired(Rejected):
    """The session is past its end."""

    code = "channel_expired"
    hint = "Close it and open another session."


class AmountNotRising(Rejected):
    """A voucher's amount is cumulative and has to rise."""

    code = "amount_not_monotonic"
    hint = "Ask for the last total plus the price."

    def __init__(self, detail: str, *, last_amount: int = 0, last_sequence: int = 0) -> None:
        super().__init__(detail)
        self.last_amount = last_amount
        self.last_sequence = last_sequence


class DepositExceeded(Rejected):
    """The amount is above what the session's deposit, or the funding source, covers."""

    code = "insufficient_deposit"
    hint = "Stay within the deposit, or open a session with another one."


class FundingRevoked(Rejected):
    """The payer withdrew what the session pays from."""

    code = "funding_revoked"
    hint = "Onboard the wallet again, or close the session."


class InvalidWallet(Rejected):
    """A wallet's address is not a Solana address, or not the one that the proof names."""

    code = "invalid_wallet"
    hint = "Send base58 addresses of 32 bytes."


class InvalidAmount(Rejected):
    """An amount is not a decimal string of atomic units, or not one that makes sense here."""

    code = "invalid_amount"
    hint = "Send amounts as strings of digits, in atomic units."


class NetworkMismatch(Rejected):
    """The request is for another Solana network than this service."""

    code = "network_mismatch"
    hint = "Use this service's network, or the service of that network."


class SellerNotRegistered(Rejected):
    """The seller's wallet is not registered here, and this service serves registered ones only."""

    code = "seller_not_registered"
    hint = "Ask the operator to register the seller, or to allow others."


class WalletNotOnboarded(Rejected):
    """The buyer's wallet has not onboarded here, or its permission has ended."""

    code = "wallet_not_onboarded"
    hint = "Onboard first: POST /api/sessions/onboard."


class RecipientNotAllowed(Rejected):
    """The buyer limited who may be paid, and this seller is not among them."""

    code = "recipient_not_allowed"
    hint = "Onboard again with this seller among `recipients`."


class PayerUnproven(Rejected):
    """The payer's wallet has not signed for the session key, and this service wants that."""

    code = "payer_unproven"
    hint = "Have the buyer open the session, or sign its vouchers with its wallet's own key."


class SignInRequired(Rejected):
    """The route needs a proof of who owns the wallet."""

    code = "sign_in_required"
    hint = "Send the header SIGN-IN-WITH-X, signed by the wallet."


class SignInInvalid(Rejected):
    """The proof of who owns the wallet does not hold."""

    code = "sign_in_invalid"
    hint = "Sign a fresh message for this service with the wallet's own key."


class InvalidTransaction(Rejected):
    """The transaction is none that a cluster would take."""

    code = "invalid_transaction"
    hint = "Build the transaction again with a current client library."


class InvalidTransactionEncoding(InvalidTransaction):
    """The text or the bytes are not one Solana transaction in its wire form."""

    code = "invalid_transaction_encoding"
    hint = "Send the transaction's wire bytes as standard base64."


class SponsorshipRefused(Rejected):
    """A transaction that our fee payer does not sign; `reason` is the wire's code.

    `instruction` is the place of the one that is to blame, from 0.
    """

    code = "sponsorship_refused"
    hint = "Build the transaction as the answer to /mpp/prepare describes; `detail` says why."

    def __init__(self, reason: str, detail: str = "", *, instruction: int | None = None) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.instruction = instruction


class OnboardingNotFound(Rejected):
    """No onboarding of this wallet waits for signatures."""

    code = "onboarding_not_found"
    hint = "Ask for transactions first: POST /api/sessions/onboard."


class TransactionAltered(Rejected):
    """What came back is not, byte for byte, what was issued last for this wallet."""

    code = "transaction_altered"
    hint = "Onboard again, and sign the transactions of the newest answer, all and in order."


class SignatureInvalid(Rejected):
    """The wallet's signature is missing, or does not hold for the transaction."""

    code = "signature_invalid"
    hint = "Sign every transaction with the wallet's own key."


class TransactionExpired(Rejected):
    """The transaction's blockhash is too old: it can never land."""

    code = "tx_expired"
    hint = "Ask for fresh transactions and sign them at once."


class SimulationFailed(Rejected):
    """The transaction would fail, or has failed, on the chain."""

    code = "simulation_failed"
    hint = "Do what `detail` says of the failure, then start again."


class SettlementNotRetryable(Rejected):
    """The settlement is not waiting for an operator."""

    code = "settlement_not_retryable"
    hint = "Only a parked settlement can be retried; look at `settlement show`."


class SettlementNotAbandonable(Rejected):
    """The settlement may still be paid, or has ended already."""

    code = "settlement_not_abandonable"
    hint = "Wait until its live attempt has landed or is proven dead; look at `settlement show`."


class VoucherRejected(Rejected):
    """A voucher that is not accepted.

    `error` is the exact string that the reference server returns for the same input;
    `reason` is its bare code (the part before a colon).
    """

    code = "voucher_rejected"
    hint = "The verdict's `error` says which check failed."

    def __init__(self, reason: str, error: str | None = None, *, detail: str = "") -> None:
        self.reason = reason
        self.error = error or reason
        super().__init__(detail or self.error)


class Conflict(LedgerError):
    """Another writer was first; the caller may simply try again."""

    code = "conflict"
    retryable = True
    hint = "Send the same request again."


class ReadingTooOld(Conflict):
    """A reading of the chain is from before something that the log knows to be on it."""

    code = "reading_too_old"


class WrongPosition(Conflict):
    """The stream is not at the expected position."""

    code = "wrong_position"


class ClaimTaken(Conflict):
    """A claim of this append was made before: an idempotency key, a nonce."""

    code = "claim_taken"

    def __init__(self, scope: str, key: str) -> None:
        super().__init__(f"{scope}: {key!r} was claimed before")
        self.scope = scope
        self.key = key


class Unavailable(LedgerError):
    """Something the request needs does not answer. Nothing acknowledged was lost."""

    code = "unavailable"
    retryable = True
    hint = "Send the same request again after the time in Retry-After."


class DatabaseUnavailable(Unavailable):
    """The event log cannot be read or written at the moment."""

    code = "database_unavailable"


class ChainUnavailable(Unavailable):
    """The RPC provider does not answer, or not usefully; `unreadable`: not to what was asked."""

    code = "chain_unavailable"

    def __init__(self, detail: str, *, unreadable: bool = False) -> None:
        super().__init__(detail)
        self.unreadable = unreadable


class SessionKeysNotConfigured(Unavailable):
    """No secret is configured under which session keys could be kept."""

    code = "session_keys_not_configured"
    hint = "The operator sets SESSION_KEY_SECRETS: 32 random bytes as base64."


class SessionKeyUnavailable(Unavailable):
    """The session's key cannot be opened: the secret that seals it is not configured."""

    code = "session_key_unavailable"
    hint = "The operator adds the secret that `detail` names to SESSION_KEY_SECRETS again."


class DatabaseNotTrusted(Unavailable):
    """The database was replaced or restored, so nothing is signed until an operator has looked."""

    code = "database_not_trusted"
    hint = "An operator compares the log with the chain; see docs/runbook.md, Restore."


class Corrupt(LedgerError):
    """Log, hash chain or projection disagree. No further write is safe on this stream."""

    code = "corrupt"
    hint = "Stop writing and run `session-ledger replay`; see docs/runbook.md."
