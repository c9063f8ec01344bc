"""Session Ledger: vouchers judged, logged and settled exactly once.

A tour of thirty minutes. The words are in docs/glossary.md, the reasons in docs/architecture.md.

 1. `domain/session.py`           what a session is; the checks of a voucher, in order; the fold
 2. `domain/events.py`            everything that can happen, and `domain/log.py`, how it is hashed
 3. `application/commit.py`       the one door to the log: load, decide, append, decide again
 4. `application/submit_voucher.py`   a request's vouchers, from envelope to verdict
 5. `adapters/postgres/group_commit.py`   what makes an append durable, and many of them cheap;
                                  `append_sql.py` beside it holds the statements
 6. `application/close_session.py`    the append that stops the vouchers and fixes the payment
 7. `domain/settlement_steps.py`  the next step of a settlement: pure, and the reason why money
                                  never moves twice; `settlement.py` holds its states
 8. `application/settle_session.py`   does what the step says: read, sign, send, append
 9. `ports/`                      what all of this needs from outside
10. `bootstrap.py`                how it is wired, and `api/app.py` and `worker.py`, which run it

Buyers come in by `api/mpp/`: `application/onboard.py` (who lets us pay), `open_for_buyer.py` (a
session and its reserved deposit), `sign_voucher.py`, and `sponsor_payment.py` (one-shot charges,
which the same settlement machine sees through), which `facilitate.py` offers to servers of x402.
What an owner allows a session key is in `domain/grants.py`, enforced by `submit_voucher.py`.
A payment that its buyer sent to the chain itself is judged in `domain/direct_judgement.py` and
accepted by `accept_payment.py`. `domain/funding.py` and the two adapters
`adapters/solana/funding_*.py` say where money comes from; `watcher.py` looks after what is open.

Then what you came for: prices in `domain/pricing.py` and `domain/metering.py`, the wire formats in
`sdk/session_ledger`, routes in `api/`, commands in `cli/`, one-machine runs in `supervisor.py` and
`local/`. Imports point downwards only: delivery, wiring, use cases and adapters, ports, domain;
`make check` holds them to it.
"""
