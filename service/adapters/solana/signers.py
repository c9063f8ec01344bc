"""The `Signer` port over solana-keychain, and the key sources of the configuration.

    file:/path/to/id.json                        a solana-keygen file that only its owner can read
    env:NAME                                     base58 or a JSON array in that variable
    vault:KEY?pubkey=ADDRESS                     a transit key; VAULT_ADDR and VAULT_TOKEN are set
    vault:https://host/KEY?pubkey=ADDRESS        the same at a named address
    aws-kms:KEY?pubkey=ADDRESS[&region=REGION]   needs the extra `aws`
    gcp-kms:NAME?pubkey=ADDRESS                  needs the extra `gcp`

Anybody may paste a secret where a source is expected, so no message repeats what it was given
beyond a known scheme, a path or a well-formed variable name.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from solana_keychain import (
    MemorySigner,
    SignerError,
    SolanaSigner,
    VaultSignerConfig,
    create_vault_signer,
)
from solders.pubkey import Pubkey
from solders.signature import Signature

from service.ports import SignerUnavailable

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z", re.ASCII)
_KEY_FILE_BYTES_MAX: Final = 4_096
_SCHEMES: Final = "file:, env:, vault:, aws-kms: or gcp-kms:"


class KeySourceError(Exception):
    """A key source of the configuration gives no key; the message says what to do, no secret."""


class KeychainSigner:
    """A key that signs through solana-keychain. Its text form is its address."""

    def __init__(self, signer: SolanaSigner) -> None:
        self._signer = signer

    def __repr__(self) -> str:
        return f"KeychainSigner({self.pubkey})"

    @property
    def pubkey(self) -> str:
        """The base58 address."""
        return str(self._signer.pubkey)

    async def sign(self, message: bytes) -> bytes:
        """A 64-byte signature that verifies for `pubkey`.

        Raises:
            SignerUnavailable: the key's home failed, or gave another signature.
        """
        try:
            signature: Signature = await self._signer.sign_message(message)
        except SignerError as error:
            # Only the code: the rest may quote what a remote key store answered.
            raise SignerUnavailable(f"the key {self.pubkey}: {error.code.value}") from None
        if not signature.verify(self._signer.pubkey, message):
            raise SignerUnavailable(f"the key {self.pubkey} gave a signature that does not verify")
        return bytes(signature)


async def load_signer(source: str, environment: Mapping[str, str]) -> KeychainSigner:
    """The key that `source` names; `environment` holds the variables that it refers to.

    Raises:
        KeySourceError: with what to do about it.
    """
    scheme, _, rest = source.partition(":")
    try:
        match scheme:
            case "file":
                return KeychainSigner(_from_file(Path(rest)))
            case "env":
                return KeychainSigner(_from_environment(rest, environment))
            case "vault":
                return KeychainSigner(await _from_vault(rest, environment))
            case "aws-kms":
                return KeychainSigner(await _from_aws(rest))
            case "gcp-kms":
                return KeychainSigner(await _from_gcp(rest))
            case _:
                raise KeySourceError(f"a key source starts with {_SCHEMES}")
    except SignerError as error:
        raise KeySourceError(f"the {scheme} key source is refused: {error.code.value}") from None


def _from_file(path: Path) -> MemorySigner:
    try:
        with path.open("rb") as file:
            # The open file is judged, not its name, so nobody can swap it in between.
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeySourceError(f"the key file {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or len(content) > _KEY_FILE_BYTES_MAX:
        raise KeySourceError(f"{path} is not a key file as solana-keygen writes it")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeySourceError(f"others can read the key file; run: chmod 600 {path}")
    text = content.decode("ascii", errors="replace").strip()
    if not text.startswith("["):
        raise KeySourceError(f"{path} is not a key file as solana-keygen writes it")
    return MemorySigner.from_private_key_string(text)


def _from_environment(name: str, environment: Mapping[str, str]) -> MemorySigner:
    if not _NAME.match(name):
        raise KeySourceError("env: takes the name of a variable, in capitals")
    if not environment.get(name):
        raise KeySourceError(f"the variable {name} is not set")
    return MemorySigner.from_private_key_string(environment[name])


async def _from_vault(rest: str, environment: Mapping[str, str]) -> SolanaSigner:
    key, options = _options(rest, "vault", {"pubkey"})
    address, separator, name = key.rpartition("/")
    token = environment.get("VAULT_TOKEN")
    address = address if separator else environment.get("VAULT_ADDR", "")
    if not token or not address or not name:
        raise KeySourceError(
            "vault: needs a key name, VAULT_ADDR (or an https URL) and VAULT_TOKEN"
        )
    if urlsplit(address).username or urlsplit(address).password:
        raise KeySourceError("vault: takes its token from VAULT_TOKEN, not from the URL")
    config = VaultSignerConfig(
        api_base_url=address, token=token, key_name=name, public_key=options["pubkey"]
    )
    return await create_vault_signer(config)


async def _from_aws(rest: str) -> SolanaSigner:
    key, options = _options(rest, "aws-kms", {"pubkey", "region"})
    try:
        from solana_keychain.aws_kms import (  # noqa: PLC0415  an extra
            AwsKmsSignerConfig,
            create_aws_kms_signer,
        )
    except ImportError:
        raise KeySourceError("aws-kms: needs the extra: session-ledger[aws]") from None
    config = AwsKmsSignerConfig(
        key_id=key, public_key=options["pubkey"], region=options.get("region")
    )
    return await create_aws_kms_signer(config)


async def _from_gcp(rest: str) -> SolanaSigner:
    key, options = _options(rest, "gcp-kms", {"pubkey"})
    try:
        from solana_keychain.gcp_kms import (  # noqa: PLC0415  an extra
            GcpKmsSignerConfig,
            create_gcp_kms_signer,
        )
    except ImportError:
        raise KeySourceError("gcp-kms: needs the extra: session-ledger[gcp]") from None
    return await create_gcp_kms_signer(
        GcpKmsSignerConfig(key_name=key, public_key=options["pubkey"])
    )


def _options(rest: str, scheme: str, allowed: set[str]) -> tuple[str, dict[str, str]]:
    key, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    if not key or not options.keys() <= allowed:
        raise KeySourceError(f"{scheme}: takes a key and {', '.join(sorted(allowed))}")
    try:
        Pubkey.from_string(options.get("pubkey", ""))
    except ValueError:
        raise KeySourceError(f"{scheme}: needs ?pubkey= with the key's Solana address") from None
    return key, options
