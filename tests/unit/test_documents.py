"""The documents that follow from the code are committed as the code has them."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from service.domain.metering import meter_amount
from service.domain.pricing import parse_price_book

ROOT = Path(__file__).parents[2]


def _load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _load_generator()
FRESH: dict[str, str] = GENERATOR.documents()


@pytest.mark.parametrize("name", FRESH)
def test_the_committed_document_is_what_the_code_says(name: str) -> None:
    committed = (ROOT / "docs" / name).read_text()
    assert committed == FRESH[name], f"docs/{name} is stale: run python docs/generate.py"


def test_every_verdict_code_has_a_remedy_and_no_other() -> None:
    assert GENERATOR.VERDICT_REMEDIES.keys() == GENERATOR.REASONS.keys()
    assert GENERATOR.REASONS.keys() >= GENERATOR.REFERENCE_REASONS


def test_every_setting_says_what_it_is_for() -> None:
    fields = GENERATOR.Settings.model_fields
    undescribed = [name for name, field in fields.items() if not field.description]
    assert undescribed == []


def test_the_worked_examples_of_metering_are_what_the_price_book_gives() -> None:
    text = (ROOT / "docs" / "metering.md").read_text()
    book = parse_price_book(json.loads(text.split("```json")[1].split("```")[0]), version=1)
    meters = {meter.name: meter for meter in book.meters}
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == meters.keys()
    computed = [
        (name, usage, str(meter_amount(meters[name], int(usage)))) for name, usage, _ in rows
    ]
    assert computed == rows
