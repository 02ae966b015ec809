"""One thread at a time uses a set of weights; other threads wait.

Hooks, gradients and modes belong to a model, not to a call, so two threads on one model would see each other's changes.
Weights are identified by their memory address: models that share weights share the lock. Locks are reentrant.

Waiting that can never end is an error: two threads that wait for each other's weights, or a thread that holds weights
and waits for the other thread to end (`Thread.join`, `Future.result`). Other kinds of waiting (an event, a queue, a
pool of `multiprocessing`, an event loop) cannot be analysed, so a thread that holds weights and does nothing but wait
for `PATIENCE` seconds is an error too.

The stack of another thread is read only while that thread stands still, because Python 3.11 may fail on the frames of a
running thread. So it is not read until the owner of the weights has used no processor time for `LOOK_EVERY` seconds.
"""

import concurrent.futures._base as futures
import concurrent.futures.thread as pools
import gc
import os
import selectors
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

from circuits.errors import InputError

Keys = frozenset[int]

LOOK_EVERY = 0.5
"""Seconds between a waiting thread's checks whether its wait can end."""
PATIENCE = 10.0
"""Seconds for which an owner of weights may itself wait before threads that wait for it raise an error."""


WAITING = {threading.__file__, selectors.__file__}
"""Files whose code runs while a thread waits for an event, a condition, a queue, a pool or an event loop."""


class Exclusive:
    """Records which threads hold and await which keys. Threads that wait for the same key are served in order."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.owners: dict[int, int] = {}
        self.waiting: dict[int, Keys] = {}

    @contextmanager
    def hold(self, keys: Keys, name: str) -> Iterator[None]:
        """Waits until no other thread holds any of these keys, and then holds them.

        Raises:
            InputError: the wait would never end.
        """
        me = threading.get_ident()
        with self.changed:
            mine = self._take(me, keys, name)
        try:
            yield
        finally:
            with self.changed:
                for key in mine:
                    self.owners.pop(key, None)
                self.changed.notify_all()

    def _take(self, me: int, keys: Keys, name: str) -> Keys:
        self.waiting[me] = keys
        looks = _Looks()
        try:
            while True:
                owners = {owner for key in keys if (owner := self.owners.get(key, me)) != me}
                frames = looks.frames(self.waiting) if looks.any_idle(owners) else {}
                for owner in owners:
                    if me in self._behind(owner, frames):
                        raise InputError(_never(name, owner))
                    if owner not in self.waiting and looks.stood(owner) > PATIENCE:
                        raise InputError(_never(name, owner, f"has done nothing but wait for {PATIENCE:g} seconds"))
                if not owners and not self._should_let_pass(me, keys):
                    break
                self.changed.wait(LOOK_EVERY)
        finally:
            del self.waiting[me]
        mine = frozenset(key for key in keys if key not in self.owners)
        self.owners.update(dict.fromkeys(mine, me))
        return mine

    def _should_let_pass(self, me: int, keys: Keys) -> bool:
        """Whether another thread that needs some of these keys came first; False for a thread that holds any keys."""
        if me in self.owners.values():
            return False
        for other, wanted in self.waiting.items():  # in order of arrival
            if other == me:
                return False
            if not wanted.isdisjoint(keys) and me not in self._behind(other, {}):
                return True
        return False

    def _behind(self, thread: int, frames: dict[int, FrameType]) -> set[int]:
        """All threads that this thread waits for, directly or indirectly; `frames`: of threads that stand still."""
        threads: set[int] = set()
        todo = [thread]
        while todo:
            other = todo.pop()
            wanted = self.waiting.get(other, frozenset())
            next_ones = {owner for key in wanted if (owner := self.owners.get(key, other)) != other}
            for one in next_ones | _joined(frames, other):
                if one not in threads:
                    threads.add(one)
                    todo.append(one)
        return threads

    def after_fork(self) -> None:
        """A new process has no other threads; frees their keys."""
        me = threading.get_ident()
        self.changed = threading.Condition()
        self.owners = {key: owner for key, owner in self.owners.items() if owner == me}
        self.waiting = {}


class _Looks:
    """A waiting thread's last observations of the other threads. It holds the lock of `Exclusive` while it observes, so
    owners and waiting threads can neither finish nor continue."""

    def __init__(self) -> None:
        self.used: dict[int, float] = {}
        self.still: dict[int, tuple[FrameType, float]] = {}

    def any_idle(self, owners: set[int]) -> bool:
        """Whether one of these threads has used no processor time since the last call; on systems without such a clock,
        whether there was an earlier call."""
        used = {owner: _processor_time(owner) for owner in owners}
        idle = any(self.used.get(owner) == seconds for owner, seconds in used.items())
        self.used = used
        if not idle:
            self.still = {}  # they have gone on since the last look
        return idle

    def frames(self, waiting: Collection[int]) -> dict[int, FrameType]:
        """Frames of this thread, the threads in `waiting`, and threads that wait where they waited at the last call."""
        now, me = time.monotonic(), threading.get_ident()
        current = _current_frames()
        held = {thread: frame for thread, frame in current.items() if frame.f_code.co_filename in WAITING}
        before, self.still = self.still, {}
        for thread, frame in held.items():
            last = before.get(thread)
            self.still[thread] = last if last is not None and last[0] is frame else (frame, now)
        same = {thread for thread, (_, since) in self.still.items() if since < now}
        return {
            thread: frame for thread, frame in current.items() if thread == me or thread in waiting or thread in same
        }

    def stood(self, thread: int) -> float:
        """Seconds for which a thread has been observed waiting in one place."""
        return time.monotonic() - self.still[thread][1] if thread in self.still else 0.0


def _processor_time(thread: int) -> float:
    """A living thread's processor time in seconds; 0 if the system does not report it (macOS, Windows)."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _current_frames() -> dict[int, FrameType]:
    """The top frame of each thread. Garbage collection is off: it could deadlock Python before 3.11.5 and 3.12."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if enabled:
            gc.enable()


def _joined(frames: dict[int, FrameType], thread: int) -> set[int]:
    """The threads whose end or result a thread is waiting for."""
    threads: set[int] = set()
    for each in _stack(frames.get(thread)):
        where, function = each.f_code.co_filename, each.f_code.co_name
        if where == threading.__file__ and function == "join":
            joined = each.f_locals.get("self")
            threads |= {joined.ident or 0} if isinstance(joined, threading.Thread) else set()
        elif where == futures.__file__ and function == "result":
            threads |= _computing(frames, each.f_locals.get("self"))
        elif where == futures.__file__ and function in ("wait", "as_completed"):
            threads |= {one for future in each.f_locals.get("fs") or () for one in _computing(frames, future)}
    return threads


def _computing(frames: dict[int, FrameType], future: object) -> set[int]:
    """The pool thread that computes a future."""
    return {
        thread
        for thread, frame in frames.items()
        for each in _stack(frame)
        if each.f_code.co_filename == pools.__file__ and getattr(each.f_locals.get("self"), "future", None) is future
    }


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _never(name: str, thread: int, waits: str = "waits for this one: neither could go on") -> str:
    names = {each.ident: each.name for each in threading.enumerate()}
    return (
        f"{name} is used by thread {names.get(thread, thread)!r}, which {waits}. Make the call in "
        "the thread that uses the model, wait for the other thread after the call, or load the model twice"
    )


EXCLUSIVE = Exclusive()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=EXCLUSIVE.after_fork)
