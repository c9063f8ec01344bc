"""What many callers ask in the same moment, asked once: readings in batches.

Nobody is given an answer that is older than the question, so a reading counts for each caller as
if it were that caller's alone (ADR 0021).
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from service.domain.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Together(Generic[K, V]):
    """Answers by key, read in batches of at most `size`, one batch at a time.

    A key that is asked for while its batch is being read goes with the next batch. `apart`
    says of a failure whether one key may cause it for all: such a batch is read again in halves, so
    that only that key is left without an answer. After any other failure nothing is asked again.
    """

    def __init__(
        self,
        read: Callable[[Sequence[K]], Awaitable[Sequence[V]]],
        *,
        size: int = 1,
        apart: Callable[[Unavailable], bool] = lambda _: False,
    ) -> None:
        self._read = read
        self._size = size
        self._apart = apart
        self._turn = asyncio.Lock()
        self._open: tuple[dict[K, None], asyncio.Task[dict[K, V | Unavailable]]] | None = None
        self._readings: set[asyncio.Task[dict[K, V | Unavailable]]] = set()

    async def get(self, key: K) -> V:
        """The answer to a reading that begins after this call; may be cancelled.

        Raises:
            Unavailable: that reading failed for this key.
        """
        answer = (await asyncio.shield(self._join(key)))[key]
        if isinstance(answer, Unavailable):
            raise type(answer)(answer.detail)  # each caller's own, with its own traceback
        return answer

    async def close(self) -> None:
        """End what is being read; whoever still waits for it is cancelled."""
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)

    def _join(self, key: K) -> asyncio.Task[dict[K, V | Unavailable]]:
        """The reading that will answer: the next one with room."""
        if self._open is not None:
            keys, reading = self._open
            if key in keys or len(keys) < self._size:
                keys[key] = None
                return reading
        keys = {key: None}
        reading = asyncio.create_task(self._read_in_turn(keys))
        self._readings.add(reading)
        reading.add_done_callback(self._readings.discard)
        self._open = keys, reading
        return reading

    async def _read_in_turn(self, keys: dict[K, None]) -> dict[K, V | Unavailable]:
        async with self._turn:
            if self._open is not None and self._open[0] is keys:
                self._open = None  # whoever asks from here on asks anew
            return await self._answers([*keys])

    async def _answers(self, keys: Sequence[K]) -> dict[K, V | Unavailable]:
        """An answer or a failure for each key."""
        try:
            return dict(zip(keys, await self._read(keys), strict=True))
        except Unavailable as error:
            if len(keys) == 1 or not self._apart(error):
                return dict.fromkeys(keys, error)
        half = len(keys) // 2
        return await self._answers(keys[:half]) | await self._answers(keys[half:])
