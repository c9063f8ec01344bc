"""A Swig smart wallet as a funding source: the buyer's wallet has a role for our key.

Spec: Swig program. The role is bounded by a token limit, which the program charges with every
payment; the roots of the wallet may change or remove the role at any time.
"""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

from solders.instruction import Instruction
from solders.pubkey import Pubkey
from spl.token.instructions import create_idempotent_associated_token_account

from service.adapters.solana import accounts
from service.adapters.solana.batches import ACCOUNTS_PER_READ, read_all
from service.adapters.solana.funding_delegate import mint_finding
from service.adapters.solana.swig_account import (
    ED25519,
    Role,
    SwigAccount,
    SwigLayoutError,
    parse_swig_account,
)
from service.adapters.solana.swig_actions import All, ManageAuthority, Program, TokenLimit
from service.adapters.solana.swig_instructions import (
    SWIG_PROGRAM_ID,
    add_authority_v1,
    create_v1,
    sign_v2,
    swig_pda,
    update_authority_v1,
    wallet_pda,
)
from service.adapters.solana.swig_preflight import Payment, Sight, judge, judge_role, readable
from service.adapters.solana.transfer import (
    associated_token_address,
    build,
    compiled,
    transfer_instruction,
)
from service.domain.errors import Corrupt, FundingSourceRefused, InvalidWallet
from service.domain.failures import Finding
from service.domain.funding import FundingReading, GrantOrder, GrantTransaction, SourceRef
from service.domain.onchain import LatestBlockhash, RawAccount, TransferOrder, UnsignedTransaction
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc
from service.ports import Chain

_ID_TAG: Final = b"session-ledger swig wallet:"
_IDS_PER_BUYER: Final = 4
"""Anybody can occupy an address by creating a wallet there or sending it SOL; then the next is
used."""

_ACCOUNTS_PER_SIGHT: Final = 3
_ROOT_ROLE: Final = 0

_ADVICE: Final = {
    "swig_account_missing": "onboard first, or name another Swig address",
    "swig_v1": "migrate it in the wallet's own app (Migrate, then TransferAssets), then try again",
    "swig_role_missing": "onboard again, which adds the role",
    "swig_role_expired": "renew the role's session, or onboard again",
    "swig_permission_missing": "onboard again: the role needs a token limit and the token program",
}
"""What a buyer does about the findings of `judge_role`."""


def buyer_swig_ids(buyer: str) -> tuple[bytes, ...]:
    """The ids under which a buyer's wallet is created here, and found again; the first is usual.

    Raises:
        ValueError: the buyer is not base58 of 32 bytes.
    """
    key = bytes(Pubkey.from_string(buyer))
    return tuple(sha256(_ID_TAG + key + bytes([n])).digest() for n in range(_IDS_PER_BUYER))


class SwigFunding:
    """The `FundingSource` port for buyers whose Swig wallet has a role for `pubkey`."""

    kind: FundingKind = "swig"

    def __init__(self, chain: Chain, pubkey: str, token_program: str) -> None:
        self._chain = chain
        self._pubkey = pubkey
        self._token_program = token_program

    @property
    def pubkey(self) -> str:
        """The key of the role."""
        return self._pubkey

    async def locate(self, payer: str, swig_address: str | None, mint: str) -> SourceRef:
        """The wallet's token account and our role in it; without an address, the buyer's own.

        Only a payer that manages the wallet's roles can name it: whoever merely holds a role with
        a limit could otherwise spend by our role what its own does not allow.
        """
        try:
            if swig_address is None:
                _, swig_address = await self._own_wallet(payer)
            ref = self._ref(swig_address, mint)
        except ValueError as error:
            raise InvalidWallet(f"the buyer's addresses are not Solana's: {error}") from error
        sight = (await self._sights([ref]))[0]
        judgement = judge_role(sight, None, self._payment(mint))
        if judgement.finding is not None:
            raise _refused(judgement.finding)
        assert judgement.role is not None
        swig = readable(sight)
        if isinstance(swig, Finding) or _manager(swig, payer) is None:
            raise FundingSourceRefused(
                f"{payer} does not manage the Swig wallet {swig_address}: "
                "name the payer's own wallet, or pay as a key that manages this one"
            )
        return replace(ref, swig_role_id=judgement.role.id)

    async def readings(self, refs: Sequence[SourceRef]) -> list[FundingReading]:
        """What each wallet holds and what our role may still spend, three accounts each."""
        found: list[FundingReading] = []
        for ref, sight in zip(refs, await self._sights(refs), strict=True):
            judgement = judge(sight, ref.swig_role_id, self._payment(ref.mint))
            balance = sight.source.amount if sight.source else AtomicUsdc(0)
            reading = FundingReading(balance, judgement.allowance, sight.slot, judgement.finding)
            found.append(reading)
        return found

    async def source_finding(self, order: TransferOrder) -> Finding | None:
        """Read the wallet, its token account and the mint, and judge the role for this order."""
        if order.swig_address is None or order.swig_role_id is None:
            return Finding("swig_role_missing", "the settlement names no role of a Swig wallet")
        payment = Payment(
            key=order.authority,
            mint=order.mint,
            token_program=order.token_program,
            amount=order.amount,
            destination=order.destination,
        )
        ref = replace(self._ref(order.swig_address, order.mint), token_account=order.source)
        if order.source_owner not in (None, ref.owner):
            detail = f"the owner is {ref.owner}, the settlement names {order.source_owner}"
            return Finding("source_owner_mismatch", detail)
        sight = (await self._sights([ref]))[0]
        finding = judge(sight, order.swig_role_id, payment).finding
        return finding or await mint_finding(self._chain, order)

    def unsigned(self, order: TransferOrder, blockhash: str) -> UnsignedTransaction:
        """The transaction in which the wallet signs the payment, and our key for the wallet.

        Raises:
            Corrupt: the order names no role, or an address that is none.
        """
        if order.swig_address is None or order.swig_role_id is None:
            raise Corrupt(f"settlement {order.settlement_id} names no role of a Swig wallet")
        try:
            swig, signer = map(Pubkey.from_string, (order.swig_address, order.authority))
            wallet, _ = wallet_pda(swig)
            inner = transfer_instruction(replace(order, authority=str(wallet)))
            payment = sign_v2(swig, (order.swig_role_id, signer), [inner])
            return build(order, payment, blockhash)
        except ValueError as error:
            raise Corrupt(f"settlement {order.settlement_id} cannot be built: {error}") from error

    async def grant(self, order: GrantOrder) -> list[GrantTransaction]:
        """What is missing of: the wallet, its token account, a role that allows the limit.

        Empty when nothing is. Each transaction needs the ones before it to be confirmed.
        """
        swig_id, swig_address = await self._own_wallet(order.buyer)
        ref = self._ref(swig_address, order.mint)
        sight = (await self._sights([ref]))[0]
        buyer, swig = map(Pubkey.from_string, (order.buyer, swig_address))
        steps: list[tuple[str, list[Instruction]]] = []
        if sight.swig is None:
            await self._require_program()
            steps.append(("create_swig", [create_v1(swig_id, buyer, buyer, [All()])]))
        granting = self._granting(order, sight, buyer, swig)
        if granting:
            steps.append(("add_role", granting))
        if steps and await self._chain.lamports(order.buyer) == 0:
            raise FundingSourceRefused(
                f"{order.buyer} holds no SOL, and the Swig wallet's rent is paid in SOL: "
                "send it about 0.01 SOL"
            )
        if not steps:
            return []
        latest = await self._chain.latest_blockhash()
        return [
            _transaction(name, step, order.fee_payer, latest, swig_address) for name, step in steps
        ]

    def _granting(
        self, order: GrantOrder, sight: Sight, buyer: Pubkey, swig: Pubkey
    ) -> list[Instruction]:
        """The instructions that give our key its role and the wallet its token account."""
        instructions: list[Instruction] = []
        if sight.source is None:
            mint, program = map(Pubkey.from_string, (order.mint, order.token_program))
            wallet, _ = wallet_pda(swig)
            instructions.append(
                create_idempotent_associated_token_account(buyer, wallet, mint, program)
            )
        allowed = (TokenLimit(order.mint, order.spend_limit), Program(order.token_program))
        ours = Pubkey.from_string(self._pubkey)
        if sight.swig is None:
            acting = (_ROOT_ROLE, buyer)
            return [*instructions, add_authority_v1(swig, buyer, acting, ours, allowed)]
        found = readable(sight)
        if isinstance(found, Finding):
            raise _refused(found)
        manager = _manager(found, order.buyer, plain=True)
        if manager is None:
            raise FundingSourceRefused(
                f"{order.buyer} no longer manages the roles of its Swig wallet {swig}: "
                "give it a role with ManageAuthority in a Swig app"
            )
        acting = (manager.id, buyer)
        role = next((r for r in found.roles if _is_plain(r) and r.pubkey == self._pubkey), None)
        if role is None:
            instructions.append(add_authority_v1(swig, buyer, acting, ours, allowed))
        elif role.actions != allowed:
            # The role keeps its id, so sessions that pay by it still can.
            instructions.append(update_authority_v1(swig, buyer, acting, role.id, allowed))
        return instructions

    async def _own_wallet(self, buyer: str) -> tuple[bytes, str]:
        """Id and address of the wallet whose root the buyer is, or of one to create.

        Raises:
            FundingSourceRefused: others occupy every address that is derived for the buyer.
            ValueError: the buyer is not base58 of 32 bytes.
        """
        ids = buyer_swig_ids(buyer)
        addresses = [str(swig_pda(swig_id)[0]) for swig_id in ids]
        found = [raw for _, raw in await read_all(self._chain, addresses)]
        places = [n for n, raw in enumerate(found) if raw is not None and _has_root(raw, buyer)]
        places += [n for n, raw in enumerate(found) if raw is None]
        if not places:
            raise FundingSourceRefused(
                f"the addresses of {buyer}'s Swig wallet are taken by others: "
                "create a wallet in a Swig app and name it as the buyer's Swig address"
            )
        return ids[places[0]], addresses[places[0]]

    async def _require_program(self) -> None:
        program = str(SWIG_PROGRAM_ID)
        if (await self._chain.accounts([program], "confirmed")).accounts[0] is None:
            raise FundingSourceRefused(
                f"the Swig program {program} is not on this cluster: use another cluster, load it "
                "into the local chain with --program, or set FUNDING_SOURCE=delegate"
            )

    async def _sights(self, refs: Sequence[SourceRef]) -> list[Sight]:
        """Each wallet as read at one slot."""
        sights: list[Sight] = []
        size = ACCOUNTS_PER_READ // _ACCOUNTS_PER_SIGHT
        for start in range(0, len(refs), size):
            batch = refs[start : start + size]
            addresses = [
                address
                for ref in batch
                for address in (_swig_of(ref), ref.owner, ref.token_account)
            ]
            found = iter(await read_all(self._chain, addresses))
            for ref in batch:
                (slot, swig), (_, wallet), (_, raw) = next(found), next(found), next(found)
                source = raw and accounts.token_account(raw.address, raw.owner, raw.data, slot)
                sights.append(Sight(_swig_of(ref), swig, wallet, ref.token_account, source, slot))
        return sights

    def _ref(self, swig_address: str, mint: str) -> SourceRef:
        wallet = str(wallet_pda(Pubkey.from_string(swig_address))[0])
        return SourceRef(
            kind="swig",
            token_account=associated_token_address(wallet, mint, self._token_program),
            owner=wallet,
            mint=mint,
            swig_address=swig_address,
        )

    def _payment(self, mint: str) -> Payment:
        return Payment(key=self._pubkey, mint=mint, token_program=self._token_program)


def _swig_of(ref: SourceRef) -> str:
    assert ref.swig_address is not None, "a Swig source has a Swig address"
    return ref.swig_address


def _refused(finding: Finding) -> FundingSourceRefused:
    return FundingSourceRefused(f"{finding.code}: {finding.detail}; {_ADVICE[finding.code]}")


def _is_plain(role: Role) -> bool:
    """Whether the role's key signs for it by itself, without a session."""
    return role.authority_type == ED25519


def _manager(swig: SwigAccount, key: str, *, plain: bool = False) -> Role | None:
    """A role of the key that may change roles."""
    roles = (role for role in swig.roles if role.pubkey == key and (_is_plain(role) or not plain))
    return next((role for role in roles if role.allows(All(), ManageAuthority())), None)


def _has_root(raw: RawAccount, buyer: str) -> bool:
    """Whether the account is a Swig wallet, and its root role the buyer's."""
    if raw.owner != str(SWIG_PROGRAM_ID):
        return False
    try:
        root = parse_swig_account(raw.data).role(_ROOT_ROLE)
    except SwigLayoutError:
        return False
    return root is not None and root.pubkey == buyer


def _transaction(
    name: str,
    instructions: Sequence[Instruction],
    fee_payer: str,
    latest: LatestBlockhash,
    swig_address: str,
) -> GrantTransaction:
    unsigned = compiled(instructions, fee_payer, latest.blockhash)
    height = latest.last_valid_block_height
    return GrantTransaction(name, unsigned.message, unsigned.signers, height, swig_address)
