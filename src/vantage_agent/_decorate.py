"""Decorate whatever can be called, so that each call is one operation for as long as it lasts."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from vantage_agent._context import Pieces, current

Operation = Callable[[], "AbstractContextManager[Any]"]  # returns a new operation, which lasts while it is entered


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextlib.asynccontextmanager
async def _nothing_async() -> Any:
    yield


# The functions that contextlib returns have this code, whatever they are made of.
_CONTEXT_MANAGER = getattr(_nothing, "__code__", None)
_ASYNC_CONTEXT_MANAGER = getattr(_nothing_async, "__code__", None)


def decorated(function: Any, operation: Operation) -> Any:
    """Return ``function`` with each call as an operation: up to the end of a coroutine, of a generator or of the block
    of a context manager. Raise TypeError for what is not called as a function is."""
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(decorated(function.__func__, operation))
    if inspect.isclass(function) or not callable(function):
        kind = "classes" if inspect.isclass(function) else f"a {type(function).__name__}"
        raise TypeError(f"this decorates functions, not {kind}: put it on a function or method, below other decorators")
    wrapper = functools.wraps(function)(_wrapper(function, operation))
    # A partial or another object has no names, which tools expect of a function.
    for name in ("__name__", "__qualname__"):
        if not hasattr(function, name):
            setattr(wrapper, name, getattr(getattr(function, "func", type(function)), name, name))
    return wrapper


def _wrapper(function: Any, operation: Operation) -> Any:
    code = getattr(function, "__code__", None)
    if code is not None and code is _CONTEXT_MANAGER:
        return contextlib.contextmanager(_context_manager(function, operation))
    if code is not None and code is _ASYNC_CONTEXT_MANAGER:
        return contextlib.asynccontextmanager(_async_context_manager(function, operation))
    called = _called(function)
    if inspect.iscoroutinefunction(called):
        return _coroutine(function, operation)
    if inspect.isasyncgenfunction(called):
        return _async_generator(function, operation)
    if inspect.isgeneratorfunction(called):
        return _generator(function, operation)
    return _function(function, operation)


def _called(function: Any) -> Any:
    """Return the function that a call runs: of an object that is no function, its ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004  # it is callable: its kind is what matters


def _function(function: Any, operation: Operation) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outside = current.get()
        entered = operation()
        entered.__enter__()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            entered.__exit__(type(error), error, error.__traceback__)
            raise
        if inspect.iscoroutine(result):
            pieces = Pieces(current.get())
            current.set(outside)
            return _rest(result, entered, pieces)
        entered.__exit__(None, None, None)
        return result

    return wrapper


async def _rest(coroutine: Any, entered: AbstractContextManager[Any], pieces: Pieces) -> Any:
    """Await a coroutine that a plain function has returned: the operation goes on until its end."""
    pieces.enter()
    try:
        result = await coroutine
    except BaseException as error:
        entered.__exit__(type(error), error, error.__traceback__)
        raise
    else:
        entered.__exit__(None, None, None)
        return result
    finally:
        pieces.leave()


def _coroutine(function: Any, operation: Operation) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with operation():
            return await function(*args, **kwargs)

    return wrapper


def _context_manager(function: Any, operation: Operation) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with operation(), function(*args, **kwargs) as value:
            yield value

    return wrapper


def _async_context_manager(function: Any, operation: Operation) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with operation():
            async with function(*args, **kwargs) as value:
                yield value

    return wrapper


def _generator(function: Any, operation: Operation) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outside = current.get()
        with operation():
            pieces = Pieces(current.get())
            current.set(outside)
            generator = function(*args, **kwargs)
            step, sent = generator.send, None
            while True:
                pieces.enter()
                try:
                    item = step(sent)
                except StopIteration as end:
                    return end.value
                finally:
                    pieces.leave()
                try:
                    step, sent = generator.send, (yield item)
                except GeneratorExit:
                    pieces.enter()
                    try:
                        generator.close()
                    finally:
                        pieces.leave()
                    raise
                except BaseException as error:
                    step, sent = generator.throw, error

    return wrapper


def _async_generator(function: Any, operation: Operation) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        outside = current.get()
        with operation():
            pieces = Pieces(current.get())
            current.set(outside)
            generator = function(*args, **kwargs)
            step, sent = generator.asend, None
            while True:
                pieces.enter()
                try:
                    item = await step(sent)
                except StopAsyncIteration:
                    return
                finally:
                    pieces.leave()
                try:
                    step, sent = generator.asend, (yield item)
                except GeneratorExit:
                    pieces.enter()
                    try:
                        await generator.aclose()
                    finally:
                        pieces.leave()
                    raise
                except BaseException as error:
                    step, sent = generator.athrow, error

    return wrapper
