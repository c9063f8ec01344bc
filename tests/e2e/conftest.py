"""One service for each test process and network, started when the first test asks for it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from running import Buyer, Seller, Service, running

HERE = Path(__file__).parent
_services = ExitStack()
_by_network: dict[str, Service] = {}


def _shared(network: str, *options: str) -> Service:
    if network not in _by_network:
        started = running(*options, SOLANA_NETWORK=network)
        _by_network[network] = _services.enter_context(started)
    return _by_network[network]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop the services once this process has no further test here: idle ones cost the others."""
    yield
    if nextitem is None or HERE not in nextitem.path.parents:
        _by_network.clear()
        _services.close()


@pytest.fixture(scope="module")
def service() -> Service:
    """`serve` on localnet. Modules share it, so each test makes sellers and channels of its own."""
    return _shared("localnet")


@pytest.fixture(scope="module")
def mainnet_service() -> Service:
    """`serve` for mainnet-beta, with the local chain in its place."""
    return _shared("mainnet-beta", "--local-chain")


@pytest.fixture(scope="module")
def devnet_service() -> Service:
    """`serve` for devnet, with the local chain in its place: what the reference's client knows.
    Its buyers need no SOL."""
    return _shared("devnet", "--local-chain")


@pytest.fixture
def seller(service: Service) -> Seller:
    """A seller of the test's own, at 10,000 atomic units a request."""
    return service.seller()


@pytest.fixture
def buyer(service: Service) -> Buyer:
    """A buyer of the test's own, without money."""
    return service.buyer()
