"""Reading the parameters of a request: strict, with the texts that a validator answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from solders.hash import Hash, ParseHashError
from solders.pubkey import Pubkey
from solders.signature import Signature

from service.local.chain.bank import Bank, View
from service.local.chain.protocol import MIN_CONTEXT_SLOT_NOT_REACHED, RpcError, invalid_params
from service.local.chain.slots import Level

U64_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Options:
    """A configuration object; absent members and nulls are the same."""

    values: Mapping[str, object]

    def integer(self, name: str, *, low: int = 0, high: int = U64_MAX) -> int | None:
        """An integer member in [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise invalid_params(f"Invalid params: {name} must be an integer in [{low}, {high}]")
        return value

    def amount(self, name: str) -> int | None:
        """A u64 member, as a number or as a decimal string."""
        value = self.values.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:  # noqa: PLR2004 - digits of a u64
            return Options({name: int(value)}).integer(name)
        return self.integer(name)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean member."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid_params(f"Invalid params: {name} must be a boolean")
        return value

    def text(self, name: str) -> str | None:
        """A string member."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid_params(f"Invalid params: {name} must be a string")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """A string member out of `allowed`."""
        value = self.text(name)
        if value is None:
            return default
        if value not in allowed:
            raise invalid_params(
                f"Invalid params: unknown variant `{value}`, expected one of"
                f" {', '.join(f'`{choice}`' for choice in allowed)}"
            )
        return value

    def address(self, name: str) -> Pubkey | None:
        """An address member."""
        value = self.text(name)
        return None if value is None else parse_address(value)

    def group(self, name: str) -> "Options | None":
        """A member that is an object itself."""
        value = self.values.get(name)
        return None if value is None else as_options(value)

    def items(self, name: str) -> list[object] | None:
        """A member that is an array."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            raise invalid_params(f"Invalid params: {name} must be an array")
        return cast("list[object] | None", value)

    def level(self, name: str = "commitment") -> Level:
        """A commitment level; `finalized` when absent."""
        return Level(self.choice(name, tuple(Level), Level.FINALIZED))

    def history_level(self) -> Level:
        """The level for queries about history, which exists from `confirmed` on."""
        level = self.level()
        if level is Level.PROCESSED:
            raise invalid_params("Method does not support commitment below `confirmed`")
        return level

    def view(self, bank: Bank, level: Level | None = None) -> View:
        """The chain at the asked commitment, not older than `minContextSlot`.

        Raises:
            RpcError: -32016 when the level has not reached that slot.
        """
        view = bank.view(self.level() if level is None else level)
        wanted = self.integer("minContextSlot")
        if wanted is not None and view.slot < wanted:
            raise RpcError(
                MIN_CONTEXT_SLOT_NOT_REACHED,
                "Minimum context slot has not been reached",
                {"contextSlot": view.slot},
            )
        return view


def as_options(value: object) -> Options:
    """`value` as a configuration object."""
    if not isinstance(value, dict):
        raise invalid_params("Invalid params: expected an object")
    return Options(cast("dict[str, object]", value))


def parse_address(value: object) -> Pubkey:
    """A base58 address."""
    try:
        return Pubkey.from_string(_text(value, "an address"))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {_reason(error)}") from error


def parse_signature(value: object) -> Signature:
    """A base58 signature."""
    try:
        return Signature.from_string(_text(value, "a signature"))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return "WrongSize" if "size" in str(error).lower() else "Invalid"


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise invalid_params(f"Invalid params: {what} must be a base58 string")
    return value


@dataclass(frozen=True, slots=True)
class Params:
    """The positional parameters of one request."""

    values: tuple[object, ...]

    def get(self, index: int) -> object:
        """The parameter at `index`, or None."""
        return self.values[index] if index < len(self.values) else None

    def required(self, index: int) -> object:
        """The parameter at `index`."""
        value = self.get(index)
        if value is None:
            raise invalid_params(f"`params` should have at least {index + 1} argument(s)")
        return value

    def address(self, index: int) -> Pubkey:
        """The address at `index`."""
        return parse_address(self.required(index))

    def signature(self, index: int) -> Signature:
        """The signature at `index`."""
        return parse_signature(self.required(index))

    def blockhash(self, index: int) -> Hash:
        """The blockhash at `index`."""
        try:
            return Hash.from_string(_text(self.required(index), "a blockhash"))
        except ParseHashError as error:
            raise invalid_params(f"Invalid param: {_reason(error)}") from error

    def text(self, index: int) -> str:
        """The string at `index`."""
        value = self.required(index)
        if not isinstance(value, str):
            raise invalid_params(f"Invalid params: parameter {index + 1} must be a string")
        return value

    def integer(self, index: int, *, low: int = 0, high: int = U64_MAX) -> int:
        """The integer at `index`, in [low, high]."""
        self.required(index)
        value = Options({"value": self.values[index]}).integer("value", low=low, high=high)
        return value or 0

    def items(self, index: int, *, at_most: int) -> list[object]:
        """The array at `index`."""
        value = self.required(index)
        if not isinstance(value, list):
            raise invalid_params(f"Invalid params: parameter {index + 1} must be an array")
        items = cast("list[object]", value)
        if len(items) > at_most:
            raise invalid_params(f"Too many inputs provided; max {at_most}")
        return items

    def options(self, index: int) -> Options:
        """The configuration object at `index`; empty when absent."""
        value = self.get(index)
        return Options({}) if value is None else as_options(value)
