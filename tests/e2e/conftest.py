"""One service for each test process and network, started when the first test asks for it."""

from collections.abc import Iterator

import pytest
from running import Buyer, Seller, Service, running


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """`serve` on localnet. Tests share it, so each makes sellers and channels of its own."""
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def mainnet_service() -> Iterator[Service]:
    """`serve` for mainnet-beta, with the local chain in its place."""
    with running("--local-chain", SOLANA_NETWORK="mainnet-beta") as started:
        yield started


@pytest.fixture(scope="session")
def devnet_service() -> Iterator[Service]:
    """`serve` for devnet, with the local chain in its place: what the reference's client knows.
    Its buyers need no SOL."""
    with running("--local-chain", SOLANA_NETWORK="devnet") as started:
        yield started


@pytest.fixture
def seller(service: Service) -> Seller:
    """A seller of the test's own, at 10,000 atomic units a request."""
    return service.seller()


@pytest.fixture
def buyer(service: Service) -> Buyer:
    """A buyer of the test's own, without money."""
    return service.buyer()
