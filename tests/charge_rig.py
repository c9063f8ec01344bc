"""One-shot payments as buyers build them, honest and not: parties, instructions, wire bytes."""

from collections.abc import Callable, Sequence
from hashlib import sha256

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import create_idempotent_associated_token_account, transfer_checked
from spl.token.models import TransferCheckedParams

from service.adapters.solana.transfer import associated_token_address
from service.domain.sponsorship import MEMO_PROGRAM, SponsorPolicy, TransferClaim
from service.domain.units import AtomicUsdc
from service.local.chain import USDC_DEVNET_MINT

MINT = str(USDC_DEVNET_MINT)
TOKEN_PROGRAM = str(TOKEN_PROGRAM_ID)
DECIMALS = 6
AMOUNT = 2_500_000
MEMO = b"mppx:00000000-0000-4000-8000-000000000000"


def keypair(name: str) -> Keypair:
    """A key that follows from its name."""
    return Keypair.from_seed(sha256(b"charge test " + name.encode()).digest())


SPONSOR, BUYER, SELLER = keypair("sponsor"), keypair("buyer"), keypair("seller")
FEE_PAYER, PAYER, RECIPIENT = (str(key.pubkey()) for key in (SPONSOR, BUYER, SELLER))


def ata(owner: str, mint: str = MINT, program: str = TOKEN_PROGRAM) -> str:
    """The owner's associated token account."""
    return associated_token_address(owner, mint, program)


SOURCE, DESTINATION = ata(PAYER), ata(RECIPIENT)
CLAIM = TransferClaim(RECIPIENT, AtomicUsdc(AMOUNT), MINT)
POLICY = SponsorPolicy(FEE_PAYER, MINT, DECIMALS, TOKEN_PROGRAM, token_address=ata)


def key(address: str) -> Pubkey:
    return Pubkey.from_string(address)


def pay(
    *,
    source: str = SOURCE,
    destination: str = DESTINATION,
    authority: str = PAYER,
    amount: int = AMOUNT,
    mint: str = MINT,
    decimals: int = DECIMALS,
    program: str = TOKEN_PROGRAM,
) -> Instruction:
    """A TransferChecked; the honest one without arguments."""
    return transfer_checked(
        TransferCheckedParams(
            program_id=key(program),
            source=key(source),
            mint=key(mint),
            dest=key(destination),
            owner=key(authority),
            amount=amount,
            decimals=decimals,
            signers=[],
        )
    )


def memo(text: bytes = MEMO, *signers: str) -> Instruction:
    metas = [AccountMeta(key(s), is_signer=True, is_writable=False) for s in signers]
    return Instruction(key(MEMO_PROGRAM), text, metas)


def token(tag: int, *accounts: str, signer: str = PAYER, rest: bytes = b"") -> Instruction:
    """An instruction of the token program by its number; the signer is the last account."""
    metas = [AccountMeta(key(a), is_signer=False, is_writable=True) for a in accounts]
    metas.append(AccountMeta(key(signer), is_signer=True, is_writable=False))
    return Instruction(TOKEN_PROGRAM_ID, bytes([tag]) + rest, metas)


def create(payer: str = PAYER, owner: str = RECIPIENT, mint: str = MINT) -> Instruction:
    return create_idempotent_associated_token_account(key(payer), key(owner), key(mint))


def charge(*, transfer: Instruction | None = None, text: bytes = MEMO) -> list[Instruction]:
    """The instructions of the reference's `charge`."""
    limit, price = set_compute_unit_limit(50_000), set_compute_unit_price(1)
    return [price, limit, transfer or pay(), memo(text)]


def wire(
    instructions: Sequence[Instruction] | None = None,
    *,
    blockhash: str | Hash | None = None,
    fee_payer: str = FEE_PAYER,
    signers: Sequence[Keypair] = (BUYER,),
    version: str = "v0",
    change: Callable[[bytearray], None] | None = None,
) -> bytes:
    """A transaction's bytes, signed by `signers`; the other signatures are empty.

    `change` alters the message before it is signed.
    """
    steps = charge() if instructions is None else list(instructions)
    recent = Hash.default() if blockhash is None else Hash.from_string(str(blockhash))
    message = (
        MessageV0.try_compile(key(fee_payer), steps, [], recent)
        if version == "v0"
        else Message.new_with_blockhash(steps, key(fee_payer), recent)
    )
    content = bytearray(to_bytes_versioned(message))
    if change is not None:
        change(content)
    return assembled(
        bytes(content), message.account_keys[: message.header.num_required_signatures], signers
    )


def assembled(content: bytes, required: Sequence[Pubkey], signers: Sequence[Keypair]) -> bytes:
    """The wire bytes: a signature for each required signer that is among `signers`."""
    known = {signer.pubkey(): signer for signer in signers}
    signatures = b"".join(
        bytes(known[address].sign_message(content)) if address in known else bytes(64)
        for address in required
    )
    return bytes([len(required)]) + signatures + content
