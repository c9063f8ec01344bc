"""Every outcome of the ledger has a status, a code of its own, and advice."""

import inspect
import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from service.api import problems
from service.api.problems import Problem, example_of, install, responses, status_of
from service.domain import errors
from service.domain.errors import LedgerError


def tree(cls: type[LedgerError] = LedgerError) -> Iterator[type[LedgerError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__.startswith("service."):
            yield from tree(child)


CLASSES = list(tree())


def test_the_walk_finds_every_class_of_the_module() -> None:
    declared = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, LedgerError)
    }
    assert declared <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_has_a_status_that_fits_its_branch(cls: type[LedgerError]) -> None:
    status = status_of(cls)
    if issubclass(cls, errors.Rejected):
        assert 400 <= status < 500
        assert not cls.retryable
    elif issubclass(cls, errors.Conflict | errors.Unavailable):
        assert status == 503
        assert cls.retryable
    else:
        assert status == 500
        assert not cls.retryable


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_says_what_it_means_and_what_to_do(cls: type[LedgerError]) -> None:
    assert cls.__doc__
    assert len(cls.hint) > 10
    assert cls.code == cls.code.lower()
    example = example_of(cls)["value"]
    assert Problem.model_validate(example).code == cls.code


def test_no_two_classes_share_a_code() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


def test_each_class_of_the_table_is_the_nearest_to_itself() -> None:
    for cls, status in problems.STATUS.items():
        assert status_of(cls) == status
        assert status in responses(cls)


def failing_app(error: Exception) -> TestClient:
    app = FastAPI()
    install(app, [])

    async def fail(_request: Request) -> None:
        raise error

    app.add_api_route("/", fail)
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    "cls", [c for c in CLASSES if c is not errors.ClaimTaken], ids=lambda cls: cls.__name__
)
def test_a_raised_error_is_answered_as_its_problem(cls: type[LedgerError]) -> None:
    answer = failing_app(cls("what exactly")).get("/")
    assert answer.status_code == status_of(cls)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers.get("retry-after") == "1") == (status_of(cls) == 503)
    body = answer.json()
    assert (body["code"], body["detail"]) == (cls.code, "what exactly")
    assert (body["retryable"], body["hint"]) == (cls.retryable, cls.hint)


def test_an_unforeseen_error_tells_nothing_of_itself() -> None:
    answer = failing_app(RuntimeError("a canary")).get("/")
    assert answer.status_code == 500
    assert "canary" not in json.dumps(answer.json())
