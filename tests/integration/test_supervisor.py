"""What `serve` says when a part of it does not start."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import supervisor
from service.config import ConfigurationError, Settings
from service.supervisor import ServeOptions, Supervisor


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """`serve` takes the signals of its process, which is ours here."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_local_chain_that_says_nothing_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = tmp_path / "python"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o700)
    monkeypatch.setattr(supervisor.sys, "executable", str(mute))
    monkeypatch.setattr(supervisor, "READY_SECONDS", 0.2)
    settings = Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    options = ServeOptions("127.0.0.1", 0, 1, local_chain=True, chain_port=0, programs=())
    with pytest.raises(ConfigurationError, match=r"local chain was not ready after 0\.2 s"):
        Supervisor(settings, options).run()
