"""Readings that are shared: fewer of them, and no answer older than its question."""

import asyncio
from collections.abc import Sequence

import pytest

from service.adapters.together import Together
from service.domain.errors import ChainUnavailable, DatabaseUnavailable


class Source:
    """Answers a batch when it is let; each answer says which batch it was read in."""

    def __init__(self, *, size: int = 8) -> None:
        self.batches: list[list[str]] = []
        self.let = asyncio.Semaphore(0)
        self.failing = False
        self.unfit: set[str] = set()
        self.together = Together(
            self.read, size=size, apart=lambda error: error.detail == "unreadable"
        )

    async def read(self, keys: Sequence[str]) -> list[str]:
        self.batches.append(list(keys))
        number = len(self.batches)
        await self.let.acquire()
        if self.failing:
            raise ChainUnavailable("no answer")
        if self.unfit & set(keys):
            raise ChainUnavailable("unreadable")
        return [f"{key} in {number}" for key in keys]

    def let_all(self) -> None:
        for _ in range(20):
            self.let.release()

    async def asked(self, *keys: str) -> list["asyncio.Task[str]"]:
        """Askers whose questions have been put, and whose reading has begun if none was."""
        tasks = [asyncio.create_task(self.together.get(key)) for key in keys]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks


async def test_what_is_asked_in_one_moment_is_read_together_and_each_key_once() -> None:
    source = Source(size=2)
    tasks = await source.asked("a", "b", "a", "c")
    source.let_all()
    assert await asyncio.gather(*tasks) == ["a in 1", "b in 1", "a in 1", "c in 2"]
    assert source.batches == [["a", "b"], ["c"]]


async def test_one_reading_is_under_way_at_a_time() -> None:
    source = Source(size=1)
    tasks = await source.asked("a", "b", "c")
    assert source.batches == [["a"]]
    source.let.release()
    await tasks[0]
    await source.asked()
    assert source.batches == [["a"], ["b"]]
    source.let_all()
    await asyncio.gather(*tasks)


async def test_no_answer_is_older_than_its_question() -> None:
    source = Source()
    early = await source.asked("a")
    late = await source.asked("a", "b")
    assert source.batches == [["a"]]
    source.let_all()
    assert await asyncio.gather(*early, *late) == ["a in 1", "a in 2", "b in 2"]


async def test_no_answer_is_older_than_its_question_where_batches_queue() -> None:
    """A full batch that begins does not close the one behind it, nor leave it open too long."""
    source = Source(size=2)
    tasks = await source.asked("a", "b", "c")  # c's batch waits, with room
    tasks += await source.asked("d")
    source.let.release()
    await tasks[0]
    await source.asked()
    assert source.batches == [["a", "b"], ["c", "d"]]
    tasks += await source.asked("c")
    source.let_all()
    assert (await asyncio.gather(*tasks))[-1] == "c in 3"


async def test_a_failure_reaches_those_who_asked_and_nobody_later() -> None:
    source = Source()
    source.failing = True
    tasks = await source.asked("a", "b")
    source.let_all()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [ChainUnavailable, ChainUnavailable]
    assert errors[0] is not errors[1]
    source.failing = False
    assert await source.together.get("a") == "a in 2"


async def test_who_gives_up_waiting_disturbs_nobody() -> None:
    source = Source()
    gone, stays = await source.asked("a", "a")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    source.let_all()
    assert await stays == "a in 1"


async def test_a_reading_that_nobody_waits_for_any_more_holds_nobody_up() -> None:
    source = Source()
    (gone,) = await source.asked("a")
    gone.cancel()
    (stays,) = await source.asked("a")
    source.let_all()
    assert await stays == "a in 2"


async def test_a_key_that_spoils_its_batch_is_left_out_and_harms_no_other() -> None:
    source = Source(size=64)
    source.unfit = {"7"}
    source.let_all()
    keys = [str(number) for number in range(16)]
    answers = await asyncio.gather(*map(source.together.get, keys), return_exceptions=True)
    found = dict(zip(keys, answers, strict=True))
    assert isinstance(found.pop("7"), ChainUnavailable)
    assert all(str(answer).startswith(f"{key} in ") for key, answer in found.items())
    assert len(source.batches) == 9  # the whole, and two halves four times


async def test_a_source_that_does_not_answer_is_not_asked_again_by_halves() -> None:
    source = Source()
    source.failing = True
    source.let_all()
    await asyncio.gather(*map(source.together.get, "abcd"), return_exceptions=True)
    assert source.batches == [["a", "b", "c", "d"]]


async def test_a_failure_keeps_its_kind() -> None:
    async def read(_keys: Sequence[str]) -> list[str]:
        raise DatabaseUnavailable("no answer")

    with pytest.raises(DatabaseUnavailable, match="no answer"):
        await Together(read).get("a")


async def test_an_answer_that_is_missing_is_an_error_and_no_wait_without_end() -> None:
    async def read(_keys: Sequence[str]) -> list[str]:
        return []

    with pytest.raises(ValueError, match="shorter"):
        await Together(read).get("a")


async def test_closing_ends_what_is_being_read_and_what_waits_for_its_turn() -> None:
    source = Source(size=1)
    tasks = await source.asked("a", "b")
    async with asyncio.timeout(5):
        await source.together.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert source.batches == [["a"]]
