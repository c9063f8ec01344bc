"""RPC methods that read accounts. Spec: solana.com/docs/rpc/http."""

from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import Final

from solders.account import Account
from solders.pubkey import Pubkey
from solders.token.state import TokenAccount
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from service.local.chain.accounts import AccountForm, account_form
from service.local.chain.bank import Bank, View
from service.local.chain.base58 import base58_decode
from service.local.chain.params import Options, Params, as_options, parse_address
from service.local.chain.protocol import Json, invalid_params
from service.local.chain.tokens import (
    TOKEN_PROGRAMS,
    read_mint,
    read_token_account,
    ui_token_amount,
)

ACCOUNTS_MAX: Final = 100
"""Most accounts in one getMultipleAccounts."""

SCAN_MAX: Final = 10_000
"""Most accounts that one scan returns. A validator has no bound; its operators forbid scans."""

_FILTERS_MAX: Final = 4
_MEMCMP_BYTES_MAX: Final = 128
_DATA_LENGTH_MAX: Final = 10 * 2**20

_TokenTest = Callable[[TokenAccount], bool]


def _get_balance(bank: Bank, params: Params) -> Json:
    view = params.options(1).view(bank)
    account = view.account(params.address(0))
    return view.in_context(0 if account is None else account.lamports)


def _get_account_info(bank: Bank, params: Params) -> Json:
    options = params.options(1)
    view, form = options.view(bank), account_form(options)
    return view.in_context(form.render(view.account(params.address(0)), view.account))


def _get_multiple_accounts(bank: Bank, params: Params) -> Json:
    options = params.options(1)
    view, form = options.view(bank), account_form(options, "base64")
    addresses = [parse_address(item) for item in params.items(0, at_most=ACCOUNTS_MAX)]
    return view.in_context([form.render(view.account(key), view.account) for key in addresses])


def _get_minimum_balance(bank: Bank, params: Params) -> Json:
    return bank.rent_exempt_minimum(params.integer(0, high=_DATA_LENGTH_MAX))


def _keyed(found: Iterable[tuple[Pubkey, Account]], view: View, form: AccountForm) -> list[Json]:
    rows: list[Json] = []
    for address, account in sorted(found, key=lambda item: bytes(item[0])):
        if len(rows) == SCAN_MAX:
            raise invalid_params(f"the scan has more than {SCAN_MAX} results; add filters")
        rows.append({"pubkey": str(address), "account": form.render(account, view.account)})
    return rows


def _get_program_accounts(bank: Bank, params: Params) -> Json:
    options = params.options(1)
    view, form = options.view(bank), account_form(options)
    filters = options.items("filters") or []
    if len(filters) > _FILTERS_MAX:
        raise invalid_params(f"Too many filters provided; max {_FILTERS_MAX}")
    tests = [_account_test(as_options(item)) for item in filters]
    rows = _keyed(
        (
            (address, account)
            for address, account in view.owned_by(params.address(0))
            if all(test(account) for test in tests)
        ),
        view,
        form,
    )
    return view.in_context(rows) if options.flag("withContext") else rows


def _account_test(item: Options) -> Callable[[Account], bool]:
    if (size := item.integer("dataSize")) is not None:
        return lambda account: len(account.data) == size
    if (memcmp := item.group("memcmp")) is not None:
        offset = memcmp.integer("offset") or 0
        wanted = _memcmp_bytes(memcmp)
        return lambda account: account.data[offset : offset + len(wanted)] == wanted
    raise invalid_params("Invalid params: a filter must be dataSize or memcmp")


def _memcmp_bytes(memcmp: Options) -> bytes:
    text = memcmp.text("bytes")
    if text is None:
        raise invalid_params("Invalid params: memcmp needs bytes")
    encoding = memcmp.choice("encoding", ("base58", "base64"), "base58")
    try:
        wanted = base58_decode(text) if encoding == "base58" else b64decode(text, validate=True)
    except ValueError as error:
        raise invalid_params(f"Invalid param: invalid memcmp bytes: {error}") from error
    if len(wanted) > _MEMCMP_BYTES_MAX:
        raise invalid_params("Invalid param: encoded memcmp bytes are too long")
    return wanted


def _get_token_account_balance(bank: Bank, params: Params) -> Json:
    view = params.options(1).view(bank)
    account = view.account(params.address(0))
    if account is None:
        raise invalid_params("Invalid param: could not find account")
    token = read_token_account(account)
    if token is None:
        raise invalid_params("Invalid param: not a Token account")
    mint = read_mint(view.account(token.mint))
    if mint is None:
        raise invalid_params("Invalid param: could not find mint")
    return view.in_context(ui_token_amount(token.amount, mint.decimals))


def _get_token_supply(bank: Bank, params: Params) -> Json:
    view = params.options(1).view(bank)
    account = view.account(params.address(0))
    if account is None:
        raise invalid_params("Invalid param: could not find account")
    mint = read_mint(account)
    if mint is None:
        raise invalid_params("Invalid param: not a Token mint")
    return view.in_context(ui_token_amount(mint.supply, mint.decimals))


def _get_token_accounts_by_owner(bank: Bank, params: Params) -> Json:
    owner = params.address(0)
    return _token_accounts(bank, params, lambda token: token.owner == owner)


def _get_token_accounts_by_delegate(bank: Bank, params: Params) -> Json:
    delegate = params.address(0)
    return _token_accounts(bank, params, lambda token: token.delegate == delegate)


def _token_accounts(bank: Bank, params: Params, wanted: _TokenTest) -> Json:
    options, chosen = params.options(2), as_options(params.required(1))
    view, form = options.view(bank), account_form(options)
    mint, program = chosen.address("mint"), chosen.address("programId")
    if (mint is None) == (program is None):
        raise invalid_params("Invalid params: exactly one of mint and programId is needed")
    if program is not None and program not in TOKEN_PROGRAMS:
        raise invalid_params("Invalid param: unrecognized Token program id")
    if mint is not None and read_mint(view.account(mint)) is None:
        raise invalid_params("Invalid param: could not find mint")
    programs = [TOKEN_PROGRAM_ID, TOKEN_2022_PROGRAM_ID] if program is None else [program]
    found: list[tuple[Pubkey, Account]] = []
    for owner in programs:
        for address, account in view.owned_by(owner):
            token = read_token_account(account)
            if token is not None and wanted(token) and mint in {None, token.mint}:
                found.append((address, account))
    return view.in_context(_keyed(found, view, form))


METHODS: Final = {
    "getBalance": _get_balance,
    "getAccountInfo": _get_account_info,
    "getMultipleAccounts": _get_multiple_accounts,
    "getMinimumBalanceForRentExemption": _get_minimum_balance,
    "getProgramAccounts": _get_program_accounts,
    "getTokenAccountBalance": _get_token_account_balance,
    "getTokenSupply": _get_token_supply,
    "getTokenAccountsByOwner": _get_token_accounts_by_owner,
    "getTokenAccountsByDelegate": _get_token_accounts_by_delegate,
}
