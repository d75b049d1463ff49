"""A user's function as the runtime calls it: what it takes by its annotations, sync or async, generator or not."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from types import GeneratorType, TracebackType
from typing import Any, Final, Self

from oncelog.app.errors import AppError, ConfigurationError, Halted, Undone
from oncelog.app.records import Batch, Out, Record
from oncelog.app.serializing import RAW, Codec, Serializer

#: What a handler that is not asynchronous gives, told apart by its type alone.
_MANY: Final = (list, tuple, GeneratorType)
_AT_ONCE: Final = (Out, *_MANY)


class Trial:
    """Keeps what a handler raises: ``with Trial() as trial: ...; if trial.error: ...``.

    A handler is not ours and may raise anything; this is the one place where that stops. Our own signals pass through.
    """

    __slots__ = ("error",)
    error: Exception | None

    def __enter__(self) -> Self:
        self.error = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, Undone | Halted | AppError):
            return False
        self.error = error
        return True


class Handler:
    """``function`` with one parameter for a record (or ``Batch[Record[...]]``) and perhaps a second one.

    ``is_sink``: it gives no records; whatever else it returns does not matter.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: Serializer | None,
        value: Serializer | None,
        *,
        parameters: tuple[int, ...] = (1, 2),
        is_sink: bool = False,
    ) -> None:
        self.function = function
        self.is_sink = is_sink
        self.name = getattr(function, "__name__", type(function).__name__)
        found = _positional(function, self.name, parameters)
        self.takes_second = len(found) == 2
        hints = _hints(function)
        annotation = hints.get(found[0].name, Record)
        self.is_batch = annotation is Batch or typing.get_origin(annotation) is Batch
        if self.is_batch:
            (annotation,) = typing.get_args(annotation) or (Record,)
        if annotation is not Record and typing.get_origin(annotation) is not Record:
            raise ConfigurationError(
                f"the first parameter of {self.name} must be a Record[key, value] or a Batch of them"
            )
        key_type, value_type = typing.get_args(annotation) or (RAW, RAW)
        self.key_type, self.value_type = key_type, value_type
        self._key = Codec(key_type | None if isinstance(key_type, type) else key_type, key)
        self._value = Codec(value_type, value)
        self.is_raw = self._key.is_raw and self._value.is_raw

    def decode(self, raw: Record[bytes | None, bytes | None]) -> Record[Any, Any]:
        """The record with the key and value that the annotation asks for."""
        if self.is_raw:
            return raw
        key, value = self._key.decode(raw.key), self._value.decode(raw.value)
        return Record(raw.topic, raw.partition, raw.offset, key, value, raw.headers, raw.timestamp)

    def call(self, records: Sequence[Record[Any, Any]], second: Any, runner: asyncio.Runner) -> list[Out]:
        """What it yields or returns. Raises what it raises."""
        first: Any = Batch(list(records)) if self.is_batch else records[0]  # a list of its own: a handler may keep it
        result = self.function(first, second) if self.takes_second else self.function(first)
        if result is not None and not isinstance(result, _AT_ONCE):
            if inspect.isasyncgen(result):
                result = self._run(runner, _collected(result))
            elif inspect.isawaitable(result):
                result = self._run(runner, _awaited(result))
        if result is None:
            return []
        if self.is_sink:
            return self._nothing(result)
        if isinstance(result, list):
            outs = result
        else:
            outs = [result] if isinstance(result, Out) or not isinstance(result, Iterable) else list(result)
        for out in outs:
            if not isinstance(out, Out):
                raise ConfigurationError(
                    f"{self.name} gave {out!r}; a processor yields or returns Out(key=..., value=...)"
                )
        return outs

    def _nothing(self, result: Any) -> list[Out]:
        """A sink is called for what it does (a generator, when it is run); what it returns is not looked at."""
        given = list(result) if isinstance(result, _MANY) else [result]
        if any(isinstance(each, Out) for each in given):
            raise ConfigurationError(f"{self.name} gave an Out, and is a sink: records are given by @app.process")
        return []

    def _run(self, runner: asyncio.Runner, task: Coroutine[Any, Any, Any]) -> Any:
        """Nobody but the handler itself can have cancelled its task, so that is a failure of its own as any other."""
        try:
            return runner.run(task)
        except asyncio.CancelledError as error:
            raise RuntimeError(f"{self.name} was cancelled from within") from error


#: By how many a function may take.
_PARAMETERS: Final[dict[tuple[int, ...], str]] = {
    (1, 2): "must take one or two parameters: a record, and the context",
    (2,): "needs two parameters: a record, and the connection to write it with",
    (1,): "must take one parameter, the record: without a database there is nothing else to give",
}


def _positional(function: Callable[..., Any], name: str, counts: tuple[int, ...]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [each for each in inspect.signature(function).parameters.values() if each.kind in kinds]
    if len(found) not in counts:
        raise ConfigurationError(f"{name} {_PARAMETERS[counts]}")
    return found


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations with names resolved; a function whose names can't be resolved says so at once, not at its first record."""
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return typing.get_type_hints(target)
    except NameError as error:
        raise ConfigurationError(
            f"the annotations of {getattr(function, '__name__', function)} can't be resolved: {error}. Define or import the "
            "names at the top of the module"
        ) from error


async def _collected(generator: AsyncIterator[Any]) -> list[Any]:
    return [out async for out in generator]


async def _awaited(result: Any) -> Any:
    return await result
