"""RPC methods that no cluster has: states that tests want, and faults that they must survive.

`surfnet_*` as Surfpool users know them; `localchain_*` are this server's own.
"""

from typing import Final

from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.token.associated import get_associated_token_address
from solders.token.state import TokenAccount, TokenAccountState
from solders.transaction import VersionedTransaction
from spl.token.constants import (
    ACCOUNT_LEN,
    ASSOCIATED_TOKEN_PROGRAM_ID,
    TOKEN_PROGRAM_ID,
    WRAPPED_SOL_MINT,
)

from service.local.chain.bank import NO_ACCOUNT, Bank
from service.local.chain.genesis import faucet
from service.local.chain.params import Options, Params, as_options
from service.local.chain.protocol import Json, invalid_params, transaction_error_text
from service.local.chain.slots import Level
from service.local.chain.tokens import TOKEN_PROGRAMS, read_mint, read_token_account

ADVANCE_SLOTS_MAX: Final = 10_000_000
"""Most slots that one localchain_advanceSlots adds."""

_CREATE_IDEMPOTENT: Final = b"\x01"
_STATES: Final = {
    "uninitialized": TokenAccountState.Uninitialized,
    "initialized": TokenAccountState.Initialized,
    "frozen": TokenAccountState.Frozen,
}


def _set_account(bank: Bank, params: Params) -> Json:
    """[address, {lamports?, data? (hex), owner?, executable?, rentEpoch?}]; the rest stays."""
    address, changes = params.address(0), as_options(params.required(1))
    view = bank.view(Level.PROCESSED)
    old = view.account(address) or NO_ACCOUNT
    text = changes.text("data")
    try:
        data = old.data if text is None else bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise invalid_params(f"Invalid params: data must be hexadecimal: {error}") from error
    lamports, epoch = changes.amount("lamports"), changes.integer("rentEpoch")
    account = Account(
        old.lamports if lamports is None else lamports,
        data,
        changes.address("owner") or old.owner,
        changes.flag("executable", default=old.executable),
        old.rent_epoch if epoch is None else epoch,
    )
    _put_account(bank, address, account)
    return view.in_context(None)


def _put_account(bank: Bank, address: Pubkey, account: Account) -> None:
    try:
        bank.set_account(address, account)
    except ValueError as error:
        raise invalid_params(f"Invalid params: the account is refused: {error}") from error


def _set_token_account(bank: Bank, params: Params) -> Json:
    """[owner, mint, {amount?, delegate?, delegatedAmount?, state?, closeAuthority?}, program?].

    Creates the associated token account when it is missing. Members that are absent stay;
    the word "null" clears a delegate or close authority.
    """
    owner, mint = params.address(0), params.address(1)
    program = TOKEN_PROGRAM_ID if params.get(3) is None else params.address(3)
    if program not in TOKEN_PROGRAMS:
        raise invalid_params("Invalid param: unrecognized Token program id")
    view = bank.view(Level.PROCESSED)
    mint_account = view.account(mint)
    if mint_account is None or mint_account.owner != program or read_mint(mint_account) is None:
        raise invalid_params("Invalid param: could not find mint")
    if mint == WRAPPED_SOL_MINT:
        raise invalid_params("Invalid param: wrapped SOL is made by transferring SOL")
    address = get_associated_token_address(owner, mint, program)
    old = view.account(address)
    token = read_token_account(old)
    if old is None or token is None:
        old = _new_token_account(bank, owner, mint, program, address)
        token = TokenAccount.from_bytes(old.data[:ACCOUNT_LEN])
    changed = bytes(_change_token(token, params.options(2)))
    account = Account(old.lamports, changed + old.data[ACCOUNT_LEN:], program)
    _put_account(bank, address, account)
    return view.in_context(None)


def _new_token_account(
    bank: Bank, owner: Pubkey, mint: Pubkey, program: Pubkey, address: Pubkey
) -> Account:
    """What the associated token program would create, whatever extensions the mint asks for.

    Simulated, so that no transaction of ours appears in the history of the account.
    """
    payer = faucet()
    create = Instruction(
        ASSOCIATED_TOKEN_PROGRAM_ID,
        _CREATE_IDEMPOTENT,
        [
            AccountMeta(payer.pubkey(), is_signer=True, is_writable=True),
            AccountMeta(address, is_signer=False, is_writable=True),
            AccountMeta(owner, is_signer=False, is_writable=False),
            AccountMeta(mint, is_signer=False, is_writable=False),
            AccountMeta(SYSTEM_PROGRAM_ID, is_signer=False, is_writable=False),
            AccountMeta(program, is_signer=False, is_writable=False),
        ],
    )
    message = MessageV0.try_compile(payer.pubkey(), [create], [], bank.blockhash(bank.tick()))
    execution = bank.simulate(VersionedTransaction(message, [payer]))
    if execution.err is not None:
        raise invalid_params(
            f"cannot create the token account: {transaction_error_text(execution.err)}"
        )
    return execution.post_accounts[address]


def _change_token(token: TokenAccount, changes: Options) -> TokenAccount:
    amount, delegated = changes.amount("amount"), changes.amount("delegatedAmount")
    state = changes.choice("state", tuple(_STATES), "")
    return TokenAccount(
        token.mint,
        token.owner,
        token.amount if amount is None else amount,
        _changed_address(changes, "delegate", token.delegate),
        _STATES.get(state, token.state),
        token.is_native,
        token.delegated_amount if delegated is None else delegated,
        _changed_address(changes, "closeAuthority", token.close_authority),
    )


def _changed_address(changes: Options, name: str, old: Pubkey | None) -> Pubkey | None:
    text = changes.text(name)
    return None if text == "null" else changes.address(name) or old


def _advance_slots(bank: Bank, params: Params) -> Json:
    """[slots] -> the new slot. Block times do not move."""
    bank.clock.advance(params.integer(0, high=ADVANCE_SLOTS_MAX))
    return bank.tick()


def _pause(bank: Bank, _params: Params) -> Json:
    """Holds the slot until localchain_resume; transactions are still executed. Gives the slot."""
    bank.clock.pause()
    return bank.tick()


def _resume(bank: Bank, _params: Params) -> Json:
    """Lets slots advance with time again. Gives the slot."""
    bank.clock.resume()
    return bank.tick()


def _drop_fork(bank: Bank, params: Params) -> Json:
    """[slots] -> the signatures that were in the last so many slots, now forgotten.

    What a client sees when the fork that held its transaction loses. Finalized slots stay.
    """
    return [str(item) for item in bank.drop_fork(params.integer(0, high=ADVANCE_SLOTS_MAX))]


METHODS: Final = {
    "surfnet_setAccount": _set_account,
    "surfnet_setTokenAccount": _set_token_account,
    "localchain_advanceSlots": _advance_slots,
    "localchain_pause": _pause,
    "localchain_resume": _resume,
    "localchain_dropFork": _drop_fork,
}
