"""x402: payments that the payer sent itself, and the facilitator for those that we send."""
