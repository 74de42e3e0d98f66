"""Concurrent work: results in order, bounded concurrency, and no task left running after an error."""

from __future__ import annotations

import asyncio
import multiprocessing

import pytest

from rlenv.core import aio
from rlenv.core.aio import all_of


def test_results_are_in_the_order_of_the_items_and_concurrency_is_bounded():
    running = most = 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (10 - item))
        running -= 1
        return item * item

    for concurrency, expected in ((1, 1), (3, 3), (None, 10)):
        most = 0
        assert asyncio.run(all_of(work, range(10), concurrency)) == [i * i for i in range(10)]
        assert most == expected
    assert asyncio.run(all_of(work, [])) == []


def test_the_first_error_cancels_the_running_tasks_before_it_is_raised():
    ended: list[str] = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(0.01 if item == 2 else 60)
        except asyncio.CancelledError:
            ended.append(f"{item} cancelled")
            raise
        raise ValueError(f"{item} failed")

    async def main() -> None:
        with pytest.raises(ValueError, match="2 failed"):
            await all_of(work, range(4))
        assert sorted(ended) == ["0 cancelled", "1 cancelled", "3 cancelled"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


async def plus_one(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1


def in_loop(number: int) -> int:
    return aio.run(plus_one(number))


def test_a_process_that_is_forked_after_a_call_has_a_loop_of_its_own():
    assert in_loop(0) == 1
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(in_loop, [1, 2, 3]).get(timeout=30) == [2, 3, 4]
    assert in_loop(4) == 5
