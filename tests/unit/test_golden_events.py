"""Events that were ever stored are read for ever, byte for byte, hash for hash."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.domain.codec import canonical, to_json
from service.domain.log import EVENT_TYPES, SCHEMA_VERSIONS, decode, event_hash
from tests.golden_events import DIRECTORY, SAMPLES, file_of, first_version, row_of

FILES = sorted(DIRECTORY.glob("*.json"))


def golden(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_every_version_of_every_type_has_a_golden_file() -> None:
    wanted = {
        file_of(name, version).name
        for name in EVENT_TYPES
        for version in range(1, SCHEMA_VERSIONS[name] + 1)
    }
    assert {path.name for path in FILES} == wanted
    assert set(SAMPLES) == EVENT_TYPES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_hash_is_of_the_stored_bytes(path: Path) -> None:
    row = golden(path)
    digest = event_hash(
        row["streamId"],
        row["position"],
        row["type"],
        row["schemaVersion"],
        bytes.fromhex(row["prevHash"]),
        row["payload"].encode(),
    )
    assert digest.hex() == row["hash"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stored_version_is_still_read(path: Path) -> None:
    row = golden(path)
    event = decode(row["type"], row["schemaVersion"], row["payload"].encode())
    current = row["schemaVersion"] == SCHEMA_VERSIONS[row["type"]]
    sample = SAMPLES[row["type"]]
    assert event == (sample if current else first_version(sample))


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
def test_the_current_version_is_written_as_it_always_was(name: str) -> None:
    row = golden(file_of(name, SCHEMA_VERSIONS[name]))
    stored = decode(name, row["schemaVersion"], row["payload"].encode())
    assert canonical(to_json(stored)).decode() == row["payload"]
    assert row_of(SAMPLES[name]).hash.hex() == row["hash"]


def test_no_field_of_an_event_is_without_a_value_in_its_sample() -> None:
    """A field that is null in every golden file would be free to change its form unseen."""
    nulls = {
        name: [field for field, value in to_json(sample).items() if value is None]
        for name, sample in SAMPLES.items()
    }
    assert {name: fields for name, fields in nulls.items() if fields} == {
        "settlement_intended": ["guard"],  # there is no guard yet
    }
