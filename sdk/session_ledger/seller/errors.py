"""What can go wrong on the seller's side. What a buyer did wrong is a verdict, not an error."""


class SellerError(Exception):
    """Root of the tree; the message says what to do."""


class SellerSetupError(SellerError):
    """The seller is not set up: a missing key, a price that is none, another recipient."""


class InvalidVoucher(SellerError):
    """What the client sent is not JSON. Answer 400."""


class LedgerUnavailable(SellerError):
    """The ledger gave no answer to rely on. Answer 503 and serve nothing: it is not paid."""


class LedgerRefused(SellerError):
    """The ledger refused the call itself; `code` is its problem's code."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"the ledger answered {status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
