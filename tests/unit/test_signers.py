"""Key sources: what gives a key, what is refused with what to do, and that no secret gets out."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from settlement_rig import keypair
from solana_keychain import MemorySigner, SignerError
from solana_keychain.core import SignerErrorCode
from solders.signature import Signature

from service.adapters.solana.signers import KeychainSigner, KeySourceError, load_signer
from service.ports import SignerUnavailable

KEY = keypair("signer test")
ADDRESS = str(KEY.pubkey())
MESSAGE = b"a message to sign"


def verifies(signature: bytes) -> bool:
    return Signature.from_bytes(signature).verify(KEY.pubkey(), MESSAGE)


def key_file(directory: Path, mode: int = 0o600, content: str | None = None) -> Path:
    path = directory / "id.json"
    path.write_text(json.dumps(list(bytes(KEY))) if content is None else content)
    path.chmod(mode)
    return path


async def refused(source: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(KeySourceError) as caught:
        await load_signer(source, environment or {})
    assert caught.value.__cause__ is None
    return str(caught.value)


async def test_a_key_file_signs_with_its_key(tmp_path: Path) -> None:
    signer = await load_signer(f"file:{key_file(tmp_path)}", {})
    assert signer.pubkey == ADDRESS
    assert verifies(await signer.sign(MESSAGE))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620])
async def test_a_key_file_that_others_can_reach_is_refused_with_what_to_do(
    tmp_path: Path, mode: int
) -> None:
    path = key_file(tmp_path, mode)
    assert f"chmod 600 {path}" in await refused(f"file:{path}")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[1,2,3]", "{}", "null", "x" * 5_000, "[" + "1," * 63 + "999]", str(KEY)],
    ids=["empty", "no bytes", "few bytes", "object", "null", "huge", "no byte", "base58"],
)
async def test_what_is_not_a_key_file_is_refused(tmp_path: Path, content: str) -> None:
    message = await refused(f"file:{key_file(tmp_path, content=content)}")
    assert str(KEY) not in message


async def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in await refused(f"file:{tmp_path / 'absent.json'}")


async def test_a_directory_is_no_key_file(tmp_path: Path) -> None:
    await refused(f"file:{tmp_path}")


@pytest.mark.parametrize("text", [str(KEY), json.dumps(list(bytes(KEY)))], ids=["base58", "JSON"])
async def test_a_variable_signs_with_its_key(text: str) -> None:
    signer = await load_signer("env:SETTLEMENT_KEY", {"SETTLEMENT_KEY": text})
    assert signer.pubkey == ADDRESS
    assert verifies(await signer.sign(MESSAGE))


async def test_a_variable_that_is_unset_or_misnamed_is_refused() -> None:
    assert "SETTLEMENT_KEY is not set" in await refused("env:SETTLEMENT_KEY")
    assert str(KEY) not in await refused(f"env:{KEY}")


async def test_a_key_in_the_place_of_a_source_is_not_repeated() -> None:
    for secret in (str(KEY), json.dumps(list(bytes(KEY))), f"{KEY}:rest"):
        message = await refused(secret)
        assert secret not in message
        assert str(KEY) not in message


async def test_a_broken_secret_in_a_variable_is_not_repeated() -> None:
    broken = str(KEY)[:-3]
    assert broken not in await refused("env:SETTLEMENT_KEY", {"SETTLEMENT_KEY": broken})


@pytest.mark.parametrize(("scheme", "extra"), [("aws-kms", "aws"), ("gcp-kms", "gcp")])
async def test_a_back_end_that_is_not_installed_names_its_extra(scheme: str, extra: str) -> None:
    message = await refused(f"{scheme}:projects/p/key?pubkey={ADDRESS}")
    assert f"session-ledger[{extra}]" in message


@pytest.mark.parametrize(
    "source",
    [
        "vault:",
        "vault:key",
        f"vault:key?pubkey={ADDRESS}x",
        f"vault:key?pubkey={ADDRESS}&token=t",
        f"vault:http://vault.example.org/key?pubkey={ADDRESS}",
        f"vault:https://user:word@vault.example.org/key?pubkey={ADDRESS}",
        "aws-kms:key",
        "gcp-kms:?pubkey=",
        "",
        "memory:1",
    ],
)
async def test_a_source_that_is_incomplete_is_refused(source: str) -> None:
    message = await refused(source, {"VAULT_TOKEN": "hidden-token"})
    assert "hidden-token" not in message


async def test_vault_needs_a_token_from_the_environment() -> None:
    source = f"vault:key?pubkey={ADDRESS}"
    assert "VAULT_TOKEN" in await refused(source, {"VAULT_ADDR": "https://vault.example.org"})


@asynccontextmanager
async def vault(answer: object, status: int = 200) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A transit engine on this machine that gives one answer; its address and its requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        requests.append(head + await reader.readexactly(length))
        body = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", requests


async def test_a_vault_key_signs_and_its_token_goes_to_vault_only() -> None:
    signature = base64.b64encode(bytes(KEY.sign_message(MESSAGE))).decode()
    async with vault({"data": {"signature": f"vault:v1:{signature}"}}) as (address, requests):
        environment = {"VAULT_ADDR": address, "VAULT_TOKEN": "hidden-token"}
        signer = await load_signer(f"vault:settlement?pubkey={ADDRESS}", environment)
        assert verifies(await signer.sign(MESSAGE))
        assert "hidden-token" not in repr(signer)
        assert b"/v1/transit/sign/settlement" in requests[0]
        assert b"hidden-token" in requests[0]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"errors": ["permission denied hidden-token"]}, 403),
        ({"data": {}}, 200),
        ({"data": {"signature": "vault:v1:" + base64.b64encode(bytes(64)).decode()}}, 200),
    ],
    ids=["refused", "no signature", "another signature"],
)
async def test_a_vault_that_does_not_sign_is_unavailable_and_quoted_nowhere(
    answer: object, status: int
) -> None:
    async with vault(answer, status) as (address, _):
        environment = {"VAULT_ADDR": address, "VAULT_TOKEN": "hidden-token"}
        signer = await load_signer(f"vault:settlement?pubkey={ADDRESS}", environment)
        with pytest.raises(SignerUnavailable) as caught:
            await signer.sign(MESSAGE)
    assert "hidden-token" not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


async def test_a_signature_by_another_key_is_never_passed_on() -> None:
    class Impostor(MemorySigner):
        async def sign_message(self, message: bytes) -> Signature:
            return keypair("impostor").sign_message(message)

    with pytest.raises(SignerUnavailable, match="does not verify"):
        await KeychainSigner(Impostor(KEY)).sign(MESSAGE)


async def test_a_failing_back_end_shows_its_code_only() -> None:
    class Failing(MemorySigner):
        async def sign_message(self, message: bytes) -> Signature:  # noqa: ARG002
            raise SignerError(SignerErrorCode.HTTP_ERROR, "the detail holds a secret")

    with pytest.raises(SignerUnavailable) as caught:
        await KeychainSigner(Failing(KEY)).sign(MESSAGE)
    assert "secret" not in str(caught.value)


async def test_the_text_of_a_signer_is_its_address(tmp_path: Path) -> None:
    signer = await load_signer(f"file:{key_file(tmp_path)}", {})
    assert repr(signer) == f"KeychainSigner({ADDRESS})"
