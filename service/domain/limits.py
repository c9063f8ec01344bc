"""Every bound of the service in one place, with its unit and its reason."""

from typing import Final

U64_MAX: Final = 2**64 - 1
"""Largest SPL token amount (atomic units)."""

SAFE_INTEGER_MAX: Final = 2**53 - 1
"""Largest integer that a JavaScript client reads back unchanged; bounds a sequence."""

BODY_BYTES_MAX: Final = 64 * 1024
"""One request body. A voucher is about 600 bytes."""

BATCH_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""A verify-batch body: 1,000 vouchers with room to spare."""

BATCH_VOUCHERS_MAX: Final = 1_000
"""Vouchers in one verify-batch request; an append holds at most a few events for each."""

UNIX_SECONDS_MAX: Final = 253_402_300_799
"""The last second of the year 9999; RFC 3339 cannot name a later one."""

JSON_DEPTH_MAX: Final = 32
"""Nesting of a request body; far below the interpreter's recursion limit."""

VOUCHER_BYTES_MAX: Final = 8 * 1024
"""Raw voucher text. The reference sends it in a header, which Node caps at 16 KiB."""

CHANNEL_ID_CHARS_MAX: Final = 128
"""Channel ids are the buyer's strings."""

METER_CHARS_MAX: Final = 64
"""Name of a meter, and the meter label of a voucher that is priced by name."""

METERS_MAX: Final = 32
"""Meters in one price book."""

TIERS_MAX: Final = 32
"""Tiers of one meter."""

NAME_CHARS_MAX: Final = 128
"""A seller's name, a key's label."""

IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
"""Length of an Idempotency-Key header."""

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 500
"""Rows in one page of any listing."""

RESERVATIONS_MAX: Final = 1_000
"""Open sessions on one funding source; each open writes the list of them."""

IDLE_TIMEOUT_SECONDS_MAX: Final = 30 * 24 * 3_600
"""Longest idle timeout that a buyer may ask for: 30 days."""

METADATA_CHARS_MAX: Final = 2 * 1024
"""JSON that a buyer sends along with an open."""

COMMIT_ATTEMPTS_MAX: Final = 4
"""One decision and three more after lost races; then 503."""

JOINT_ATTEMPTS_MAX: Final = 12
"""The same where a session grant is in it, which all its channels and sellers write to."""

EXPOSURE_SOURCES_MAX: Final = 1_000
"""Funding sources that one page of the exposure reads: ten requests to the chain."""

CLOSE_WAIT_SECONDS_MAX: Final = 60
"""Longest `wait` of a close request."""

LEASE_SECONDS_MAX: Final = 300
"""Longest time to live of a lease; a holder that died blocks its channel that long."""

RECENT_REJECTIONS_MAX: Final = 20
"""Rejected vouchers kept readable per session (and per seller for unknown channels)."""

BLOCKHASH_WINDOW_BLOCKS: Final = 150
"""Blocks during which a blockhash is valid. Spec: Solana, recent blockhashes."""

EXPIRY_MARGIN_BLOCKS: Final = 150
"""Further finalized blocks before an attempt counts as dead (settlement rule R2)."""

assert PAGE_DEFAULT <= PAGE_MAX
assert VOUCHER_BYTES_MAX < BODY_BYTES_MAX < BATCH_BODY_BYTES_MAX
assert BATCH_VOUCHERS_MAX * 2_048 < BATCH_BODY_BYTES_MAX
