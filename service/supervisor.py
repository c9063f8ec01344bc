"""`serve`: the processes of one machine, started in order, kept alive, stopped in reverse.

    serve (this) --+-- postgres         unless DATABASE_URL says where one is
                   +-- local chain      unless SOLANA_RPC_URL says where one is
                   `-- server process x N, on one listening socket

A child that dies is started again. When this process is killed, the kernel ends every child.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import httpx
import structlog
from solders.keypair import Keypair

from service import migrations
from service.adapters.solana.signers import KeySourceError, load_signer
from service.config import ConfigurationError, Settings
from service.local.lifeline import PARENT_VARIABLE
from service.local.postgres import EmbeddedPostgres
from session_ledger.challenge import NETWORKS

log = structlog.get_logger()

READY_SECONDS: Final = 60
STOP_SECONDS: Final = 15
RESTART_SECONDS: Final = 0.2
WATCH_SECONDS: Final = 0.1
FEE_PAYER_LAMPORTS: Final = 10_000_000_000
ADMIN_TOKEN_BYTES: Final = 24
SESSION_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says beside the environment."""

    host: str
    port: int
    workers: int
    local_chain: bool
    chain_port: int
    programs: tuple[str, ...]


class Child:
    """A child process that is started again when it dies."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        *,
        inherit: tuple[int, ...] = (),
        reads_output: bool = False,
    ) -> None:
        self.name = name
        self._command = command
        self._environment = {**environment, PARENT_VARIABLE: str(os.getpid())}
        self._inherit = inherit
        self._output = subprocess.PIPE if reads_output else None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; its own session keeps a terminal's Ctrl-C from reaching it before us."""
        self._close_output()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            pass_fds=self._inherit,
            stdout=self._output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self._process

    def revive(self) -> None:
        """Start it again if it died."""
        if self._process is not None and (code := self._process.poll()) is not None:
            log.error("child_died", name=self.name, status=code)
            time.sleep(RESTART_SECONDS)
            self.start()

    def fail_early(self) -> None:
        """Raise when it ended before the service was ready.

        Raises:
            ConfigurationError: it did; its own log says why.
        """
        if self._process is not None and self._process.poll() is not None:
            raise ConfigurationError(f"{self.name} ended at once; its message is above")

    def stop(self) -> None:
        """Ask it to end, and insist after a while."""
        self._close_output()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("child_killed", name=self.name)
            self._process.kill()
            self._process.wait()

    def _close_output(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


class Supervisor:
    """Runs everything until SIGINT or SIGTERM. `run` belongs to the main thread."""

    def __init__(self, settings: Settings, options: ServeOptions) -> None:
        self._settings = settings
        self._options = options
        self._data_dir = settings.data_dir.absolute()
        self._stopping = threading.Event()
        self._environment = dict(os.environ)
        self._children: list[Child] = []
        self._postgres: EmbeddedPostgres | None = None

    def run(self, on_ready: Callable[[Mapping[str, str]], None] | None = None) -> None:
        """Start, announce, watch, stop.

        Raises:
            ConfigurationError: a setting is missing or wrong.
            EmbeddedPostgresError, LocalChainError: a part cannot start.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_postgres)
            stack.callback(self._stop_children)
            facts = self._start(stack)
            if on_ready is not None:
                on_ready(facts)
            while not self._stopping.wait(WATCH_SECONDS):
                self._keep_alive()

    def _start(self, stack: contextlib.ExitStack) -> dict[str, str]:
        options, settings = self._options, self._settings
        listening = stack.enter_context(_listen(options.host, options.port))
        one_machine = settings.database_url is None
        if one_machine:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._postgres = EmbeddedPostgres(self._data_dir, settings=_postgres_settings(settings))
            database_url = self._postgres.start().url()
            self._environment["DATABASE_URL"] = database_url
        else:
            database_url = settings.database_url.get_secret_value() if settings.database_url else ""
        local_chain = options.local_chain or (
            settings.solana_network == "localnet" and not settings.solana_rpc_url
        )
        if local_chain:
            self._environment["SOLANA_RPC_URL"] = self._start_chain()
            self._pace_for(settings.local_chain_slot_seconds)
            self._environment.setdefault("FUNDING_SOURCE", "delegate")
            self._environment.setdefault("ONBOARD_SPONSOR_FEES", "true")
        if one_machine:
            migrations.upgrade(database_url)
        keys = self._keys(may_generate=local_chain)
        if local_chain:
            self._fund(keys["feePayer"])
        for number in range(options.workers):
            self._spawn(
                f"server-{number}",
                [sys.executable, "-m", "service.http_process", str(listening.fileno())],
                inherit=(listening.fileno(),),
            ).start()
        host, port = listening.getsockname()[:2]
        base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._await_ready(base_url.replace("0.0.0.0", "127.0.0.1"))  # noqa: S104  asks, not binds
        facts = {
            "baseUrl": base_url,
            "rpcUrl": self._environment.get("SOLANA_RPC_URL", ""),
            "databaseUrl": database_url.replace("+asyncpg", ""),
            "adminToken": self._environment.get("ADMIN_TOKEN", ""),
            "network": settings.solana_network,
            "mint": NETWORKS[settings.solana_network].usdc_mint,
            **keys,
        }
        if one_machine:
            _write_private(self._data_dir / "local.json", json.dumps(facts, indent=2) + "\n")
            stack.callback((self._data_dir / "local.json").unlink, missing_ok=True)
        return facts

    def _start_chain(self) -> str:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        port = self._options.chain_port or _kept_port(self._data_dir / "chain-port")
        command = [
            sys.executable, "-m", "service.cli", "devchain", "--json",
            "--data-dir", str(self._data_dir / "chain"),
            "--port", str(port),
            "--network", self._settings.solana_network,
            "--slot-seconds", str(self._settings.local_chain_slot_seconds),
            *(part for program in self._options.programs for part in ("--program", program)),
        ]  # fmt: skip
        child = self._spawn("local-chain", command, reads_output=True)
        process = child.start()
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], READY_SECONDS)[0]:
            raise ConfigurationError(f"the local chain was not ready after {READY_SECONDS} s")
        line = process.stdout.readline()
        if not line:
            raise ConfigurationError("the local chain did not start; its message is above")
        ready: dict[str, Any] = json.loads(line)
        return str(ready["rpcUrl"])

    def _pace_for(self, slot_seconds: float) -> None:
        """A fast chain is worth looking at more often."""
        pace = max(0.1, min(1.0, slot_seconds * 2.5))
        self._environment.setdefault("SETTLEMENT_POLL_SECONDS", f"{pace:.3f}")
        self._environment.setdefault("SETTLEMENT_RESEND_SECONDS", f"{2 * pace:.3f}")

    def _keys(self, *, may_generate: bool) -> dict[str, str]:
        """Where the two keys are. On a machine with a local chain they are made, as are secrets."""
        environment = self._environment
        for variable, name in (
            ("SETTLEMENT_AUTHORITY", "settlement-authority"),
            ("FEE_PAYER", "fee-payer"),
        ):
            path = self._data_dir / "keys" / f"{name}.json"
            if variable not in environment and may_generate:
                if not path.exists():
                    path.parent.mkdir(mode=0o700, exist_ok=True)
                    _write_private(path, json.dumps(list(bytes(Keypair()))))
                environment[variable] = f"file:{path}"
        token = self._data_dir / "admin-token"
        if "ADMIN_TOKEN" not in environment and may_generate:
            if not token.exists():
                _write_private(token, secrets.token_urlsafe(ADMIN_TOKEN_BYTES))
            environment["ADMIN_TOKEN"] = token.read_text()
        secrets_file = self._data_dir / "session-key-secrets"
        if "SESSION_KEY_SECRETS" not in environment and may_generate:
            if not secrets_file.exists():
                secret = base64.b64encode(secrets.token_bytes(SESSION_SECRET_BYTES)).decode()
                _write_private(secrets_file, secret)
            environment["SESSION_KEY_SECRETS"] = secrets_file.read_text()
        authority = environment.get("SETTLEMENT_AUTHORITY", "")
        return {
            "settlementAuthority": _pubkey_of(authority, environment),
            "feePayer": _pubkey_of(environment.get("FEE_PAYER") or authority, environment),
        }

    def _fund(self, fee_payer: str) -> None:
        """On the local chain the fee payer never runs dry."""
        url = self._environment["SOLANA_RPC_URL"]
        held = _rpc(url, "getBalance", fee_payer)["value"]
        if held < FEE_PAYER_LAMPORTS:
            _rpc(url, "requestAirdrop", fee_payer, FEE_PAYER_LAMPORTS)

    def _spawn(self, name: str, command: list[str], **options: Any) -> Child:
        child = Child(name, command, self._environment, **options)
        self._children.append(child)
        return child

    def _await_ready(self, base_url: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._stopping.is_set():
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{base_url}/readyz", timeout=5).is_success:
                    return
            for child in self._children:
                child.fail_early()
            if time.monotonic() > deadline:
                raise ConfigurationError(f"the service was not ready after {READY_SECONDS} s")
            time.sleep(WATCH_SECONDS)

    def _keep_alive(self) -> None:
        if self._postgres is not None and not self._postgres.is_running():
            log.error("child_died", name="postgres")
            self._postgres.start()
        for child in self._children:
            child.revive()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _stop_children(self) -> None:
        for child in reversed(self._children):
            child.stop()

    def _stop_postgres(self) -> None:
        if self._postgres is not None:
            self._postgres.stop()


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket, opened here so that a server process can die without closing it."""
    try:
        listening = socket.create_server((host, port), backlog=2_048, reuse_port=False)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
        ) from None
    listening.set_inheritable(True)
    return listening


def _postgres_settings(settings: Settings) -> dict[str, str]:
    return {"synchronous_commit": settings.synchronous_commit, "max_connections": "200"}


def _pubkey_of(source: str, environment: Mapping[str, str]) -> str:
    if not source:
        raise ConfigurationError("set SETTLEMENT_AUTHORITY to a key source, such as file:id.json")
    try:
        return asyncio.run(load_signer(source, environment)).pubkey
    except KeySourceError as error:
        raise ConfigurationError(f"SETTLEMENT_AUTHORITY or FEE_PAYER: {error}") from None


def _kept_port(memory: Path) -> int:
    """The local chain's port of last time while it is free, so that addresses stay valid."""
    kept = int(memory.read_text()) if memory.exists() else 0
    for candidate in (kept, 0):
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            first = held.enter_context(socket.create_server(("127.0.0.1", candidate)))
            port: int = first.getsockname()[1]
            held.enter_context(socket.create_server(("127.0.0.1", port + 1)))
            _write_private(memory, str(port))
            return port
    return 0


def _write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)


def _rpc(url: str, method: str, *params: object) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    answer = httpx.post(url, json=body, timeout=10).raise_for_status().json()
    if "error" in answer:
        raise ConfigurationError(f"the local chain refused {method}: {answer['error']['message']}")
    return answer["result"]
