"""The errors of x402 clients and servers, by the names of the published test client."""


class X402Error(Exception):
    """A payment or its wire objects are not as they should be."""


class X402ParseError(X402Error):
    """A wire object is malformed.

    The message is the published text; `reason` says what is wrong, without quoting the input.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class PaymentCreationError(X402Error):
    """The payment could not be made: no money, or the chain refused it. Nothing was bought."""


class PaymentVerificationError(X402Error):
    """The chain does not show the payment. `reason` is a published text."""

    def __init__(self, signature: str, reason: str) -> None:
        super().__init__(f"Payment verification failed\nSignature: {signature}\nReason: {reason}")
        self.signature = signature
        self.reason = reason


class X402AssertionError(X402Error, AssertionError):
    """An expectation of a test does not hold."""
