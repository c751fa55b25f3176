"""Fan out: everything side by side that is started is also ended, and what went wrong comes out as it was."""

from __future__ import annotations

import asyncio
import itertools
import traceback
from typing import TYPE_CHECKING

import pytest

from harvester.runtime.concurrency import MemoryBudget, beside, complete_or_undo, fan_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def others_running() -> set[asyncio.Task[object]]:
    """Tasks besides the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def rest(turns: int = 1) -> None:
    """Let others run for so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def for_ever(_: object = None) -> None:
    await asyncio.Event().wait()


async def until(done: list[int], count: int) -> None:
    while len(done) < count:
        await rest()


# fan_out: the results


@pytest.mark.parametrize("at_once", [1, 3, 100])
async def test_results_come_in_the_order_of_their_inputs(at_once: int) -> None:
    """Whichever is ready first, the first result is that of the first input."""

    async def slow_at_first(value: int) -> int:
        await rest(20 - value)
        return value * value

    assert [value * value for value in range(20)] == await fan_out(slow_at_first, range(20), at_once=at_once)


async def test_asynchronous_inputs_are_as_good() -> None:
    """Inputs may come from an asynchronous iterator, and take their time."""

    async def slowly() -> AsyncIterator[str]:
        for letter in "harvest":
            await rest(3)
            yield letter

    async def upper(letter: str) -> str:
        return letter.upper()

    assert list("HARVEST") == await fan_out(upper, slowly(), at_once=2)


async def test_no_inputs_no_results() -> None:
    """Of nothing comes nothing, at once."""

    async def none() -> AsyncIterator[int]:
        for number in ():
            yield number

    assert await fan_out(for_ever, [], at_once=3) == []
    assert await fan_out(for_ever, none(), at_once=3) == []


@pytest.mark.parametrize("at_once", [1, 7, 50])
async def test_at_most_so_many_are_under_way(at_once: int) -> None:
    """All the room is used, and never more than that."""
    running = most = 0

    async def one(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await rest(1 + number % 3)
        running -= 1

    await fan_out(one, range(200), at_once=at_once)
    assert (running, most) == (0, at_once)


async def test_the_next_input_is_drawn_only_when_there_is_room() -> None:
    """An input that is drawn starts at once and waits for no room, so that inputs may be decided late."""
    drawn: list[int] = []
    done: list[int] = []
    go = asyncio.Semaphore(0)

    def inputs() -> Iterator[int]:
        for number in range(10):
            drawn.append(number)
            yield number

    async def one(number: int) -> None:
        await go.acquire()
        done.append(number)

    running = asyncio.ensure_future(fan_out(one, inputs(), at_once=4))
    for finished in range(7):
        await until(done, finished)
        await rest(10)
        assert len(drawn) == 4 + finished
        go.release()
    for _ in range(3):
        go.release()
    await running
    assert done == drawn == list(range(10))


async def test_inputs_may_be_endless() -> None:
    """Nothing is collected beforehand: an endless input ends with the first error."""

    async def up_to_a_thousand(number: int) -> None:
        if number == 1_000:
            raise LookupError(number)

    with pytest.raises(LookupError, match="1000"):
        await fan_out(up_to_a_thousand, itertools.count(), at_once=5)


# fan_out: errors


async def test_the_error_comes_out_itself() -> None:
    """The caller catches what was raised, the very object, with its cause and its traceback, and no group."""
    cause = OSError("the network")
    error = LookupError("the title")

    async def fail(number: int) -> None:
        if number == 3:
            raise error from cause
        await for_ever()

    with pytest.raises(LookupError) as caught:
        await fan_out(fail, range(10), at_once=10)
    assert caught.value is error
    assert (caught.value.__cause__, caught.value.__context__) == (cause, None)
    assert "in fail" in "".join(traceback.format_exception(caught.value))
    assert "ExceptionGroup" not in "".join(traceback.format_exception(caught.value))


async def test_of_several_errors_the_first_comes_out() -> None:
    """When more than one fails, what comes out is what went wrong first."""

    async def fail(number: int) -> None:
        await rest(10 - number)
        raise LookupError(number)

    with pytest.raises(LookupError) as caught:
        await fan_out(fail, range(10), at_once=10)
    assert caught.value.args == (9,)


async def test_an_error_inside_a_fan_out_inside_comes_out_itself() -> None:
    """Fanned out twice, the error is still no group."""

    async def fail(number: int) -> None:
        raise LookupError(number)

    async def inner(number: int) -> None:
        await fan_out(fail, [number], at_once=1)

    with pytest.raises(LookupError, match="7"):
        await fan_out(inner, [7], at_once=1)


async def test_when_one_fails_the_others_are_cancelled_and_awaited() -> None:
    """Before the error comes out, all the others have cleaned up after themselves."""
    cleaned: list[int] = []

    async def one(number: int) -> None:
        if number == 5:
            raise LookupError(number)
        try:
            await for_ever()
        finally:
            await rest(5)
            cleaned.append(number)

    with pytest.raises(LookupError):
        await fan_out(one, range(10), at_once=6)
    assert sorted(cleaned) == [0, 1, 2, 3, 4]
    assert others_running() == set()


async def test_an_error_while_cleaning_up_does_not_hide_the_first() -> None:
    """A call that fails on being cancelled does not replace the first error."""

    async def one(number: int) -> None:
        if number == 1:
            raise LookupError(number)
        try:
            await for_ever()
        finally:
            raise OSError("cleaning up")

    with pytest.raises(LookupError):
        await fan_out(one, range(2), at_once=2)


async def test_inputs_that_fail_end_it_all() -> None:
    """An error of the inputs is like one of the function: the others are cancelled, and it comes out itself."""
    cancelled: list[int] = []

    async def inputs() -> AsyncIterator[int]:
        yield 1
        yield 2
        await rest(3)
        raise LookupError("no more")

    async def one(number: int) -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(LookupError, match="no more"):
        await fan_out(one, inputs(), at_once=5)
    assert sorted(cancelled) == [1, 2]
    assert others_running() == set()


async def test_an_error_while_cleaning_up_does_not_hide_that_of_the_inputs() -> None:
    """The first error comes out also where the inputs raised it and a call fails on being cancelled."""

    async def inputs() -> AsyncIterator[int]:
        yield 1
        await rest(3)
        raise LookupError("no more")

    async def one(number: int) -> None:
        try:
            await for_ever()
        finally:
            raise OSError("cleaning up")

    with pytest.raises(LookupError, match="no more"):
        await fan_out(one, inputs(), at_once=5)


@pytest.mark.parametrize("index", [0, 2])
async def test_a_result_that_is_not_there_is_not_passed_over(index: int) -> None:
    """A call that was cancelled on its own account comes out as such, not as a shorter list or a KeyError."""

    async def one(number: int) -> int:
        if number == index:
            raise asyncio.CancelledError
        return number

    with pytest.raises(asyncio.CancelledError):
        await fan_out(one, range(3), at_once=3)


async def test_inputs_that_wait_do_not_keep_an_error_back() -> None:
    """An error comes out though the inputs have nothing to give and no end."""

    async def inputs() -> AsyncIterator[int]:
        yield 1
        await for_ever()

    async def fail(number: int) -> None:
        raise LookupError(number)

    with pytest.raises(LookupError, match="1"):
        await fan_out(fail, inputs(), at_once=5)


async def test_cancelled_from_outside_nothing_is_left_running() -> None:
    """A cancelled fan-out has cancelled and awaited all it started, and draws no more."""
    cleaned: list[int] = []
    drawn = itertools.count()

    async def one(number: int) -> None:
        try:
            await for_ever()
        finally:
            await rest(3)
            cleaned.append(number)

    running = asyncio.ensure_future(fan_out(one, drawn, at_once=4))
    await rest(10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(cleaned) == [0, 1, 2, 3]
    assert others_running() == set()
    assert next(drawn) == 4


async def test_a_timeout_around_it_is_a_timeout() -> None:
    """`asyncio.timeout` around a fan-out ends it, with TimeoutError and nothing else."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await fan_out(for_ever, range(100), at_once=10)
    assert others_running() == set()


# beside


class Work:
    """Work beside a body: it is under way until it is cancelled, or made to fail."""

    def __init__(self) -> None:
        self.begun = self.over = False
        self.error: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        self.begun = True
        try:
            await self.error
        finally:
            await rest(3)
            self.over = True


async def test_the_work_ends_with_the_body() -> None:
    """Beside the body it runs; with the body's end it is cancelled and awaited."""
    work = Work()
    async with beside(work.run()):
        await rest(3)
        assert (work.begun, work.over) == (True, False)
    assert work.over
    assert others_running() == set()


async def test_work_that_ends_by_itself_leaves_the_body_alone() -> None:
    """The body goes on to its own end."""
    async with beside(rest(2)):
        await rest(10)
        assert others_running() == set()


async def test_a_body_that_never_waits_leaves_no_work_behind() -> None:
    """Work that has not begun is not begun any more."""
    work = Work()
    async with beside(work.run()):
        pass
    assert not work.begun
    assert others_running() == set()


async def test_when_the_work_fails_the_body_is_cancelled_and_its_error_comes_out() -> None:
    """What the caller catches is what the work raised, the very object, and no group."""
    work, error, cleaned = Work(), LookupError("the lease"), []

    async def body() -> None:
        async with beside(work.run()):
            try:
                work.error.set_exception(error)
                await for_ever()
            finally:
                await rest(3)
                cleaned.append(1)

    with pytest.raises(LookupError) as caught:
        await body()
    assert (caught.value is error, cleaned) == (True, [1])
    assert "ExceptionGroup" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("error", [LookupError("a title"), ExceptionGroup("several", [OSError()])], ids=repr)
async def test_what_the_body_raises_comes_out_itself(error: Exception) -> None:
    """The very object, after the work has been cancelled and awaited, even where that fails in turn."""
    work = Work()

    async def fail_in_turn() -> None:
        try:
            await work.run()
        finally:
            raise OSError("cleaning up")

    async def body() -> None:
        async with beside(fail_in_turn()):
            await rest(3)
            raise error

    with pytest.raises(type(error)) as caught:
        await body()
    assert (caught.value is error, caught.value.__context__, work.over) == (True, None, True)


async def test_a_body_that_fails_on_being_cancelled_does_not_hide_the_works_error() -> None:
    """What went wrong first comes out."""
    work = Work()

    async def body() -> None:
        async with beside(work.run()):
            try:
                work.error.set_exception(LookupError("the lease"))
                await for_ever()
            finally:
                raise OSError("cleaning up")

    with pytest.raises(LookupError, match="the lease"):
        await body()


async def test_work_that_fails_on_being_cancelled_is_reported() -> None:
    """A body that has returned does not hide it."""

    async def fail() -> None:
        try:
            await for_ever()
        finally:
            raise OSError("cleaning up")

    async def body() -> None:
        async with beside(fail()):
            await rest(3)

    with pytest.raises(OSError, match="cleaning up"):
        await body()


async def test_cancelled_from_outside_both_end() -> None:
    """A cancel is a cancel, and a timeout a timeout; nothing is left running."""
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), beside(work.run()):
            await for_ever()
    assert work.over
    assert others_running() == set()


# complete_or_undo


class Upload:
    """A small call with an effect: it begins something that must be undone if its result is not taken."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = self.over = False
        self.undone: list[str] = []
        self.answered = asyncio.Event()
        self.undoing = asyncio.Event()
        self.error = error

    async def begin(self) -> str:
        self.begun = True
        await self.answered.wait()
        self.over = True
        if self.error:
            raise self.error
        return "upload-1"

    async def undo(self, name: str) -> None:
        self.undoing.set()
        await rest(5)
        self.undone.append(name)


async def begun(upload: Upload) -> asyncio.Task[str]:
    """`complete_or_undo` under way, the call sent and not yet answered."""
    task = asyncio.ensure_future(complete_or_undo(upload.begin(), undo=upload.undo, seconds=60))
    await rest(3)
    assert upload.begun
    return task


async def test_a_call_that_finishes_gives_its_result() -> None:
    """Undisturbed, the result comes back and nothing is undone."""
    upload = Upload()
    upload.answered.set()
    assert await complete_or_undo(upload.begin(), undo=upload.undo, seconds=60) == "upload-1"
    assert upload.undone == []


async def test_a_call_that_fails_raises_its_error() -> None:
    """Undisturbed, an error of the call comes out itself, and nothing is undone."""
    upload = Upload(OSError("no"))
    upload.answered.set()
    with pytest.raises(OSError, match="no"):
        await complete_or_undo(upload.begin(), undo=upload.undo, seconds=60)
    assert upload.undone == []


async def test_cancelled_meanwhile_the_call_is_finished_and_undone() -> None:
    """A cancel does not come through before the call has ended and its result is undone."""
    upload = Upload()
    task = await begun(upload)
    task.cancel()
    await rest(5)
    assert not task.done()
    upload.answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.undone == ["upload-1"]
    assert others_running() == set()


async def test_cancelled_in_the_moment_of_the_answer_it_is_undone() -> None:
    """Where the call has ended and its result was not yet taken, a cancel still undoes it."""
    upload = Upload()
    task = await begun(upload)
    upload.answered.set()
    while not upload.over:
        await rest()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.undone == ["upload-1"]


async def test_a_call_that_fails_after_the_cancel_leaves_nothing_to_undo() -> None:
    """Cancelled, and then the call fails: there is nothing to undo, and the cancel comes through."""
    upload = Upload(OSError("no"))
    task = await begun(upload)
    task.cancel()
    await rest(3)
    upload.answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.undone == []
    assert others_running() == set()


@pytest.mark.parametrize("times", [2, 3])
async def test_cancelled_more_than_once_it_is_undone_all_the_same(times: int) -> None:
    """However often it is cancelled, the call is finished and its result undone before we leave."""
    upload = Upload()
    task = await begun(upload)
    for _ in range(times):
        task.cancel()
        await rest(3)
    upload.answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.over
    assert upload.undone == ["upload-1"]
    assert others_running() == set()


async def test_cancelled_while_undoing_it_is_undone_all_the_same() -> None:
    """A second cancel does not stop the undoing half-way."""
    upload = Upload()
    task = await begun(upload)
    task.cancel()
    upload.answered.set()
    await upload.undoing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.undone == ["upload-1"]
    assert others_running() == set()


@pytest.mark.parametrize("silent", ["call", "undo"])
async def test_a_call_that_does_not_end_is_given_up_after_the_cancel(silent: str) -> None:
    """Cancelled, neither the call nor its undoing keeps us for longer than it is given: a container is killed soon."""

    async def begin() -> str:
        return await for_ever() if silent == "call" else "upload-1"

    async def undo(name: str) -> None:
        assert name == "upload-1"
        await for_ever()

    task = asyncio.ensure_future(complete_or_undo(begin(), undo=undo, seconds=0.01))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert others_running() == set()


# MemoryBudget


async def test_work_waits_until_there_is_memory() -> None:
    """Below the limit no one waits; from the limit on everyone does, until enough has been released."""
    budget = MemoryBudget(100)
    budget.reserve(99)
    await budget.wait()
    budget.reserve(51)
    waiting = [asyncio.ensure_future(budget.wait()) for _ in range(3)]
    budget.reserve(-50)
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    budget.reserve(-1)
    await asyncio.gather(*waiting)
