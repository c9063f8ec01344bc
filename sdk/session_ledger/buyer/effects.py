"""One flow for both worlds: what a payment does outside of itself, done blocking or awaited.

A flow is a generator. It yields a request to send, a wait for its turn, a pause, a blocking call
or a callback, and gets back the response or the result; errors are thrown into it where they
happened. The two runners below are all that differs between `httpx.Client` and
`httpx.AsyncClient`.
"""

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import Any, Final, TypeAlias, TypeVar, cast

import httpx

from session_ledger.grant import PROBLEM_TYPE, REFUSAL_STATUSES

_log: Final = logging.getLogger("session_ledger.buyer")


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request; gives the response, its body read where it may be about the payment."""

    request: httpx.Request


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of a response that nobody will read."""

    response: httpx.Response


@dataclass(frozen=True, slots=True)
class Blocking:
    """Call something that waits for a disk or another machine; gives its result.

    What changes the client's accounts is waited for even when the request is cancelled; what can
    be left alone in its thread (`may_be_left`) is not.
    """

    call: Callable[[], Any]
    may_be_left: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """Wait for one's turn; the flow leaves the lane itself."""

    lane: "Lane"


@dataclass(frozen=True, slots=True)
class Notify:
    """Call the caller's callback. Whatever it raises is logged and changes nothing."""

    callback: Callable[..., Any] | None
    value: object


Effect: TypeAlias = Send | Drop | Blocking | Pause | Turn | Notify
Result = TypeVar("Result")
Steps: TypeAlias = Generator[Effect, Any, Result]
Flow: TypeAlias = Generator[Effect, Any, httpx.Response]


class Lane:
    """Lets one at a time pass, in the order of arrival, threads and tasks alike."""

    def __init__(self) -> None:
        self._mutex = Lock()
        self._busy = False
        self._waiting: deque[Future[None]] = deque()

    @property
    def load(self) -> int:
        """How many are in it or wait for it."""
        return len(self._waiting) + self._busy

    def enter(self) -> "Future[None]":
        """Done when it is the caller's turn. Who gives up cancels it, or leaves."""
        turn: Future[None] = Future()
        with self._mutex:
            if self._busy:
                self._waiting.append(turn)
                return turn
            self._busy = True
        turn.set_running_or_notify_cancel()
        turn.set_result(None)
        return turn

    def leave(self) -> None:
        """Let the next one pass."""
        while True:
            with self._mutex:
                if not self._waiting:
                    self._busy = False
                    return
                turn = self._waiting.popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return


class UnderWay:
    """Counts what is under way, for threads and tasks alike, and tells when nothing is."""

    def __init__(self) -> None:
        self._mutex = Lock()
        self._waiting: list[Future[None]] = []
        self.count = 0

    def begin(self) -> None:
        """One more."""
        with self._mutex:
            self.count += 1

    def end(self) -> None:
        """One less; the last one wakes all who wait."""
        with self._mutex:
            self.count -= 1
            if self.count:
                return
            woken, self._waiting = self._waiting, []
        for each in woken:
            if each.set_running_or_notify_cancel():
                each.set_result(None)

    def nothing(self) -> "Future[None]":
        """Done as soon as nothing is under way, at once if nothing is. Who gives up cancels it."""
        turn: Future[None] = Future()
        with self._mutex:
            if self.count:
                self._waiting.append(turn)
                return turn
        turn.set_result(None)
        return turn


def about_the_payment(response: httpx.Response) -> bool:
    """Whether the body may say why a payment was refused: such a body is read at once."""
    kind = response.headers.get("content-type", "")
    return response.status_code in REFUSAL_STATUSES and (
        response.status_code == HTTPStatus.PAYMENT_REQUIRED or kind.startswith(PROBLEM_TYPE)
    )


def run(flow: Flow, send: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
    """Play a flow, blocking."""
    try:
        effect = next(flow)
        while True:
            try:
                result = _done(effect, send)
            except BaseException as error:  # noqa: BLE001  the flow decides, and raises it again
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as end:
        return end.value
    finally:
        flow.close()


async def run_async(
    flow: Flow, send: Callable[[httpx.Request], Awaitable[httpx.Response]]
) -> httpx.Response:
    """Play a flow in an asyncio event loop."""
    try:
        effect = next(flow)
        while True:
            try:
                result = await _done_async(effect, send)
            except BaseException as error:  # noqa: BLE001  the flow decides, and raises it again
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as end:
        return end.value
    finally:
        flow.close()


def _done(effect: Effect, send: Callable[[httpx.Request], httpx.Response]) -> Any:
    """The result of one effect."""
    match effect:
        case Send(request):
            response = send(request)
            if about_the_payment(response):
                response.read()
            return response
        case Drop(response):
            return response.close()
        case Blocking(call, _):
            return call()
        case Pause(seconds):
            return time.sleep(seconds)
        case Turn(lane):
            return _taken(lane)
        case Notify(callback, value):
            return _told(callback, value)


async def _done_async(
    effect: Effect, send: Callable[[httpx.Request], Awaitable[httpx.Response]]
) -> Any:
    """The same, awaited."""
    match effect:
        case Send(request):
            response = await send(request)
            if about_the_payment(response):
                await response.aread()
            return response
        case Drop(response):
            return await response.aclose()
        case Blocking(call, may_be_left):
            return await _in_thread(call, may_be_left=may_be_left)
        case Pause(seconds):
            return await asyncio.sleep(seconds)
        case Turn(lane):
            return await _turn(lane)
        case Notify(callback, value):
            return await _isolated(_told(callback, value))


async def _in_thread(call: Callable[[], Any], *, may_be_left: bool) -> Any:
    task = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not may_be_left and not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _taken(lane: Lane) -> None:
    turn = lane.enter()
    try:
        turn.result()
    except BaseException:
        _give_up(lane, turn)
        raise


async def _turn(lane: Lane) -> None:
    turn = lane.enter()
    if turn.done():
        return
    try:
        await asyncio.wrap_future(turn)
    except BaseException:
        _give_up(lane, turn)
        raise


def _give_up(lane: Lane, turn: "Future[None]") -> None:
    """A turn that came in the same moment is passed on."""
    if not turn.cancel():
        lane.leave()


def _told(callback: Callable[..., Any] | None, value: object) -> Awaitable[object] | None:
    """Call it; gives what an asynchronous one has left to do."""
    if callback is None:
        return None
    try:
        left = callback(value)
    except Exception:  # noqa: BLE001  the caller's own code may raise anything
        _log.exception("a payment callback failed")
        return None
    return cast("Awaitable[object]", left) if inspect.isawaitable(left) else None


async def _isolated(pending: Awaitable[object] | None) -> None:
    if pending is None:
        return
    try:
        await pending
    except Exception:  # noqa: BLE001  the caller's own code may raise anything
        _log.exception("a payment callback failed")
