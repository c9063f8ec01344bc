"""What a local chain is asked to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from solders.pubkey import Pubkey

CONFIRMED_DEPTH: Final = 2
"""Slots after which a transaction counts as confirmed."""

FINALIZED_DEPTH: Final = 32
"""Slots after which a transaction counts as finalized, as on a cluster."""

FAITHFUL_SLOT_SECONDS: Final = 0.4
"""A cluster's slot time, for those who want the real waiting."""


class LocalChainError(Exception):
    """The local chain cannot start: bad settings, a taken port, or a data directory in use."""


@dataclass(frozen=True, slots=True)
class LocalChainSettings:
    """Settings of one local chain.

    `network` is the cluster it stands in for (`localnet`, `devnet`, `mainnet-beta`): it decides
    the genesis hash. `slot_seconds` is the time between slots, in seconds. A transaction is
    confirmed `confirmed_depth` slots after it landed and finalized after `finalized_depth`.
    Without `data_dir` nothing outlives the process. `port` 0 takes a free one; the WebSocket
    listens on the same port and on the next.

    Raises:
        LocalChainError: the depths or the slot time make no sense.
    """

    network: str = "localnet"
    slot_seconds: float = 0.05
    confirmed_depth: int = CONFIRMED_DEPTH
    finalized_depth: int = FINALIZED_DEPTH
    data_dir: Path | None = None
    programs: Mapping[Pubkey, Path] = field(default_factory=dict[Pubkey, Path])
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confirmed_depth <= self.finalized_depth:
            raise LocalChainError("the depths must satisfy 0 < confirmed_depth <= finalized_depth")
        if not self.slot_seconds > 0:
            raise LocalChainError("slot_seconds must be positive")
