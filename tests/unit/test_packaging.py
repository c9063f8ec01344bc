"""What is shipped: the wheels, the image's recipe, the compose file."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REQUIRED = {
    "POSTGRES_PASSWORD",
    "ADMIN_TOKEN",
    "SOLANA_NETWORK",
    "SOLANA_RPC_URL",
    "SETTLEMENT_AUTHORITY_FILE",
    "FEE_PAYER_FILE",
}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the service's wheel, built as the image builds it."""
    out = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_migration(wheel_names: set[str]) -> None:
    versions = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert {f"service/schema/versions/{name}" for name in versions} <= wheel_names
    assert "service/schema/env.py" in wheel_names


def test_the_wheel_holds_every_module_and_nothing_else(wheel_names: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.py")}
    assert modules <= wheel_names
    assert {name.split("/")[0].split("-")[0] for name in wheel_names} == {
        "service",
        "session_ledger",
    }


def test_every_locked_requirement_has_a_hash_and_names_no_address() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / lock).read_text()
        requirements = re.findall(r"^[a-z].*(?:\n    .*)*", text, re.MULTILINE)
        assert len(requirements) > 20
        assert [item for item in requirements if "--hash=sha256:" not in item] == []
        assert "://" not in text


def test_the_image_is_no_root_and_installs_by_hash() -> None:
    build, run = (ROOT / "Dockerfile").read_text().split("# --- run")
    assert "--require-hashes --only-binary :all:" in build
    assert re.search(r"^USER 10001$", run, re.MULTILINE)
    assert "HEALTHCHECK" in run
    assert "pip " not in run


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


def test_compose_migrates_before_it_serves_and_settles(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"postgres", "migrate", "serve", "worker"}
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("serve", "worker"):
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"}
        }
        assert services[name]["command"][0] == name
    assert services["serve"]["environment"]["RUN_WORKER"] == "false"


def test_compose_has_no_default_for_what_must_be_chosen() -> None:
    named = re.findall(r"\$\{(\w+)([^}]*)\}", (ROOT / "compose.yaml").read_text())
    assert {name for name, _ in named} == REQUIRED
    assert [name for name, rest in named if not rest.startswith(":?")] == []


def test_only_the_server_is_given_the_operators_token(compose: dict[str, Any]) -> None:
    holders = [
        name
        for name, service in compose["services"].items()
        if "ADMIN_TOKEN" in service.get("environment", {})
    ]
    assert holders == ["serve"]
