"""What can go wrong with requests about a direct payment, beside its refusals."""

from service.domain.errors import Rejected


class PaymentNotFound(Rejected):
    """No payment with this signature was accepted for this seller."""

    code = "payment_not_found"
    hint = "List your payments: GET /v1/payments."


class ResourceMismatch(Rejected):
    """The payment bought another resource than the request names."""

    code = "resource_mismatch"
    hint = "Name the resource exactly as in the requirements of the payment."


class PaymentWasReversed(Rejected):
    """The chain took the payment back: nothing more is delivered for it."""

    code = "payment_reversed"
    hint = "Ask the buyer for another payment."
