"""Which transactions `/x402/verify` and `/x402/settle` refuse, and with which published reason."""

import base64
from uuid import uuid4

from charge_rig import ata, create, key, memo
from exact_rig import PAYLOAD, Shop, exact, shop_fixture
from running import PRICE, Service
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import approve_checked
from spl.token.models import ApproveCheckedParams

from service.domain.sponsorship import LIGHTHOUSE_PROGRAM

__all__ = ["shop_fixture"]

STEPS = f"{PAYLOAD}_transaction_instructions"
WALLET = "invalid_exact_svm_smart_wallet"


# --- what the published Python facilitator accepts and should not -------------------------------


def test_overpayment_is_refused(shop: Shop) -> None:
    raw = shop.bought(exact(shop.transfer(amount=PRICE + 1), b"more"))
    assert shop.judged(raw)[0] == f"{PAYLOAD}_amount_mismatch"


def test_the_fee_payer_as_signer_of_a_memo_is_refused(shop: Shop) -> None:
    steps = [*exact(shop.transfer(), b"")[:3], memo(b"signed by you", shop.fee_payer)]
    assert shop.judged(shop.bought(steps))[0] == f"{WALLET}_fee_payer_not_isolated"


def test_a_source_of_the_fee_payers_that_the_buyer_may_draw_on_is_refused(
    service: Service,
) -> None:
    """The delegation is real, so nothing but the rule keeps the money."""
    shop = Shop.of(service, purse=0)
    chain, mint = service.chain, shop.mint
    chain.call(
        "surfnet_setTokenAccount",
        shop.fee_payer,
        mint,
        {"amount": PRICE, "delegate": shop.buyer.address, "delegatedAmount": PRICE},
    )
    raw = shop.bought(exact(shop.transfer(source=ata(shop.fee_payer, mint)), b"yours"))
    assert shop.judged(raw)[0] == f"{PAYLOAD}_transaction"


def test_a_source_of_anybody_elses_that_the_buyer_may_draw_on_is_refused(shop: Shop) -> None:
    owner, chain = Keypair(), shop.service.chain
    chain.call("requestAirdrop", str(owner.pubkey()), 1_000_000_000)
    chain.call("surfnet_setTokenAccount", str(owner.pubkey()), shop.mint, {"amount": PRICE})
    approval = ApproveCheckedParams(
        program_id=TOKEN_PROGRAM_ID,
        source=key(ata(str(owner.pubkey()), shop.mint)),
        mint=key(shop.mint),
        delegate=key(shop.buyer.address),
        owner=owner.pubkey(),
        amount=PRICE,
        decimals=6,
    )
    chain.send(owner, approve_checked(approval))
    raw = shop.bought(
        exact(shop.transfer(source=ata(str(owner.pubkey()), shop.mint)), b"of another")
    )
    assert shop.judged(raw)[0] == f"{PAYLOAD}_transaction"


def test_a_high_compute_unit_limit_is_refused(shop: Shop) -> None:
    for limit in (400_001, 1_400_000):
        steps = exact(shop.transfer(), b"limit")
        steps[0] = set_compute_unit_limit(limit)
        reason, _ = shop.judged(shop.bought(steps))
        assert reason == f"{STEPS}_compute_limit_instruction_too_high"


def test_a_high_price_is_refused_and_so_is_the_product_of_both(shop: Shop) -> None:
    for limit, price in ((20_000, 5_000_001), (400_000, 5_000_000)):
        steps = exact(shop.transfer(), b"price")
        steps[:2] = [set_compute_unit_limit(limit), set_compute_unit_price(price)]
        reason, _ = shop.judged(shop.bought(steps))
        assert reason == f"{STEPS}_compute_price_instruction_too_high"


def test_a_transaction_that_the_buyer_has_not_signed_is_refused(shop: Shop) -> None:
    """A simulation without signatures would let it pass."""
    assert shop.judged(shop.bought(signers=[]))[0] == f"{PAYLOAD}_signature_invalid"
    raw = bytearray(base64.b64decode(shop.bought()))
    raw[1 + 64] ^= 1
    spoiled = base64.b64encode(raw).decode()
    assert shop.judged(spoiled)[0] == f"{PAYLOAD}_signature_invalid"


def test_wrong_decimals_are_refused(shop: Shop) -> None:
    raw = shop.bought(exact(shop.transfer(decimals=5), b"decimals"))
    assert shop.judged(raw)[0] == f"{PAYLOAD}_mint_mismatch"


# --- the rules of the scheme ----------------------------------------------------------------


def shapes(shop: Shop) -> dict[str, tuple[list[Instruction], str]]:
    """Transactions that are no payment of the scheme, and their reasons."""
    limit, price, transfer, note = exact(shop.transfer(), b"note")
    lighthouse = Instruction(key(LIGHTHOUSE_PROGRAM), b"\x00", [])
    stranger = Instruction(key(str(Keypair().pubkey())), b"", [])
    buyer_pays = create(payer=shop.buyer.address, owner=shop.recipient, mint=shop.mint)
    of_fee_payer = shop.transfer(authority=shop.fee_payer, source=ata(shop.fee_payer, shop.mint))
    return {
        "no price and no memo": ([limit, transfer], f"{STEPS}_length"),
        "eight instructions": (
            [limit, price, transfer, note, *[lighthouse] * 4],
            f"{STEPS}_length",
        ),
        "no limit": ([price, transfer, note], f"{STEPS}_compute_limit_instruction"),
        "no price": ([limit, transfer, note], f"{STEPS}_compute_price_instruction"),
        "no transfer": ([limit, price, note], f"{PAYLOAD}_no_transfer_instruction"),
        "two transfers": (
            [limit, price, transfer, transfer, note],
            f"{WALLET}_multiple_matching_transfers",
        ),
        "an account is created": (
            [limit, price, transfer, buyer_pays],
            f"{PAYLOAD}_unknown_fourth_instruction",
        ),
        "an unknown fifth": (
            [limit, price, transfer, note, stranger],
            f"{PAYLOAD}_unknown_fifth_instruction",
        ),
        "an unknown first": ([stranger, price, transfer], f"{STEPS}_compute_limit_instruction"),
        "of the fee payer's": (
            [limit, price, of_fee_payer, note],
            f"{WALLET}_fee_payer_not_isolated",
        ),
        "to itself": (
            [limit, price, shop.transfer(destination=ata(shop.buyer.address, shop.mint)), note],
            f"{PAYLOAD}_recipient_mismatch",
        ),
        "to the wallet itself": (
            [limit, price, shop.transfer(destination=shop.recipient), note],
            f"{PAYLOAD}_recipient_mismatch",
        ),
        "too little": (
            [limit, price, shop.transfer(amount=PRICE - 1), note],
            f"{PAYLOAD}_amount_mismatch",
        ),
        "two memos": ([limit, price, transfer, note, note], f"{PAYLOAD}_memo_count"),
        "a limit twice": ([limit, limit, price, transfer], f"{WALLET}_malformed_compute_budget"),
    }


def test_what_is_no_payment_of_the_scheme_is_refused_with_its_reason(shop: Shop) -> None:
    for name, (steps, reason) in shapes(shop).items():
        assert (name, shop.judged(shop.bought(steps))[0]) == (name, reason)


def test_another_signer_is_refused(shop: Shop) -> None:
    third = Keypair()
    steps = [*exact(shop.transfer(), b"")[:3], memo(b"me too", str(third.pubkey()))]
    raw = shop.bought(steps, signers=[shop.buyer.wallet, third])
    assert shop.judged(raw)[0] == f"{PAYLOAD}_excessive_signers"


def test_another_fee_payer_is_refused(shop: Shop) -> None:
    raw = shop.bought(fee_payer=shop.buyer.address)
    assert shop.judged(raw)[0] == "invalid_exact_svm_fee_payer_mismatch"


def test_lookup_tables_are_refused(shop: Shop) -> None:
    latest = shop.service.chain.call("getLatestBlockhash")["value"]["blockhash"]
    table = AddressLookupTableAccount(Keypair().pubkey(), [key(ata(shop.recipient, shop.mint))])
    message = MessageV0.try_compile(
        key(shop.fee_payer), exact(shop.transfer(), b"table"), [table], Hash.from_string(latest)
    )
    content = to_bytes_versioned(message)
    signature = bytes(shop.buyer.wallet.sign_message(content))
    raw = base64.b64encode(bytes([2]) + bytes(64) + signature + content).decode()
    assert shop.judged(raw)[0] == f"{WALLET}_alt_resolution_not_available"


def test_the_memo_that_is_asked_for_must_be_there_once_and_byte_by_byte(shop: Shop) -> None:
    shop.extra = {"memo": "order é 1"}

    def with_memos(*texts: bytes) -> str:
        return shop.bought([*exact(shop.transfer(), b"")[:3], *map(memo, texts)])

    count, mismatch = f"{PAYLOAD}_memo_count", f"{PAYLOAD}_memo_mismatch"
    asked = "order é 1".encode()
    assert shop.judged(with_memos())[0] == count
    assert shop.judged(with_memos(asked, asked))[0] == count
    assert shop.judged(with_memos(asked + b" "))[0] == mismatch
    assert shop.judged(with_memos("order e\u0301 1".encode()))[0] == mismatch
    assert shop.judged(with_memos(b"\xff"))[0] == mismatch
    assert shop.settle(with_memos(asked))["success"] is True


def test_the_order_of_the_instructions_is_free(shop: Shop) -> None:
    limit, price, transfer, note = exact(shop.transfer(), uuid4().hex.encode())
    assert shop.settle(shop.bought([price, limit, note, transfer]))["success"] is True


def test_the_fee_payer_may_be_who_is_paid(shop: Shop) -> None:
    chain, mint = shop.service.chain, shop.mint
    chain.call("surfnet_setTokenAccount", shop.fee_payer, mint, {"amount": 0})
    transfer = shop.transfer(destination=ata(shop.fee_payer, mint))
    raw = shop.bought(exact(transfer, uuid4().hex.encode()))
    assert shop.verify(raw, payTo=shop.fee_payer)["isValid"] is True


def test_a_wallets_assertion_that_the_chain_does_not_have_fails_in_the_simulation(
    shop: Shop,
) -> None:
    """Its program is allowed, so the chain refuses: the local one has no such program."""
    note = memo(uuid4().hex.encode())
    asserted = Instruction(
        key(LIGHTHOUSE_PROGRAM), b"\x00", [AccountMeta(key(shop.buyer.address), True, False)]
    )
    raw = shop.bought([*exact(shop.transfer(), b"")[:3], asserted, note])
    assert shop.judged(raw)[0] == "invalid_exact_svm_transaction_simulation_failed"


# --- what the chain says --------------------------------------------------------------------


def test_a_buyer_without_the_money_is_refused(service: Service) -> None:
    poor = Shop.of(service, purse=PRICE - 1)
    assert poor.judged(poor.bought())[0] == "insufficient_funds"


def test_a_wallet_without_an_account_is_refused(shop: Shop) -> None:
    shop.wallet = Keypair()
    reason, message = shop.judged(shop.bought())
    assert reason == "invalid_exact_svm_transaction_simulation_failed"
    assert message.startswith("recipient_account_missing")


def test_an_unknown_blockhash_is_refused(shop: Shop) -> None:
    raw = shop.bought(blockhash=str(Keypair().pubkey()))
    assert shop.judged(raw)[0] == "invalid_transaction_state"
