"""Dataclasses to what JSON can hold, and back, led by their fields: a new field needs no line here.

Fields at their default are left out, and unknown ones passed over, so that a version that knows more and one that
knows less read each other. What comes back is checked against the field's type: a store may hold anything.
A field with `metadata={"stored": False}` stays in its process.
"""

from __future__ import annotations

import base64
import dataclasses
import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

Dump = Callable[[Any], Any]
Load = Callable[[Any], Any]


def dump(value: Any) -> dict[str, Any]:
    """A dataclass instance as dicts, lists, texts, numbers, truth values and None."""
    return cast(dict[str, Any], shape(cast(Any, type(value)))[0](value))


def load(kind: type[T], raw: object) -> T:
    """The inverse of `dump`. Raises ValueError, which says where, when `raw` is not of that shape."""
    return cast(T, shape(cast(Any, kind))[1](raw))


@cache
def shape(hint: Any) -> tuple[Dump, Load]:
    """How values of a type go out and come back. Raises TypeError for a type that records may not hold."""
    if dataclasses.is_dataclass(hint):
        return _dataclass(cast(type, hint))
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _text_of, hint
    make = _GENERIC.get(get_origin(hint))
    if make is None:
        raise TypeError(f"a stored record cannot hold {hint}")
    return make(hint)


def _dataclass(kind: type) -> tuple[Dump, Load]:
    hints = get_type_hints(kind)
    fields = [each for each in dataclasses.fields(kind) if each.init and each.metadata.get("stored", True)]
    shapes = {each.name: shape(hints[each.name]) for each in fields}
    columns = [(each.name, shapes[each.name][0], _default(each)) for each in fields]
    reads = {name: read for name, (_, read) in shapes.items()}
    required = {each.name for each in fields if _is_required(each)}

    def out(value: Any) -> dict[str, Any]:
        raw = {}
        for name, write, default in columns:
            item = getattr(value, name)
            if item != default:
                raw[name] = item if write is _same else write(item)
        return raw

    def back(raw: object) -> Any:
        if not isinstance(raw, dict):
            raise ValueError(f"{kind.__name__} is not an object")
        if not required <= raw.keys():
            raise ValueError(f"{kind.__name__} lacks {', '.join(sorted(required - raw.keys()))}")
        return kind(**{name: reads[name](item) for name, item in raw.items() if name in reads})

    return out, back


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    """The value that need not be written; MISSING, which equals none, where there is no such."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _same(value: Any) -> Any:
    """What goes out as it is; most does, so those who write look for this first and save the call."""
    return value


def _text_of(value: Any) -> Any:
    return value.value


def _checked(*kinds: type) -> Load:
    def back(raw: object) -> Any:
        if type(raw) not in kinds:
            raise ValueError(f"{type(raw).__name__} where {kinds[0].__name__} belongs")
        return raw

    return back


def _bytes_out(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes_back(raw: object) -> bytes:
    if not isinstance(raw, str):
        raise ValueError("bytes are not text")
    return base64.b64decode(raw, validate=True)


_SCALARS: dict[Any, tuple[Dump, Load]] = {
    str: (_same, _checked(str)),
    int: (_same, _checked(int)),
    bool: (_same, _checked(bool)),
    float: (_same, _checked(float, int)),
    bytes: (_bytes_out, _bytes_back),
    type(None): (_same, _checked(type(None))),
}


def _literal(hint: Any) -> tuple[Dump, Load]:
    allowed = frozenset(get_args(hint))

    def back(raw: object) -> Any:
        if not isinstance(raw, str) or raw not in allowed:
            raise ValueError(f"none of {', '.join(sorted(map(str, allowed)))}")
        return raw

    return _same, back


def _optional(hint: Any) -> tuple[Dump, Load]:
    inner = [each for each in get_args(hint) if each is not type(None)]
    if len(inner) != 1 or len(get_args(hint)) != 2:
        raise TypeError(f"a stored record cannot hold {hint}")
    write, read = shape(inner[0])
    return (
        _same if write is _same else lambda value: None if value is None else write(value),
        lambda raw: None if raw is None else read(raw),
    )


def _items(raw: object) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError(f"{type(raw).__name__} where a list belongs")
    return raw


def _sequence(build: Callable[[list[Any]], Any]) -> Callable[[Any], tuple[Dump, Load]]:
    def make(hint: Any) -> tuple[Dump, Load]:
        write, read = shape(get_args(hint)[0])
        return (
            list if write is _same else lambda value: [write(each) for each in value],
            lambda raw: build([read(each) for each in _items(raw)]),
        )

    return make


def _tuple(hint: Any) -> tuple[Dump, Load]:
    arguments = get_args(hint)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(tuple)(hint)
    columns = [shape(each) for each in arguments]

    def back(raw: object) -> tuple[Any, ...]:
        items = _items(raw)
        if len(items) != len(columns):
            raise ValueError(f"{len(items)} items where {len(columns)} belong")
        return tuple(read(each) for (_, read), each in zip(columns, items, strict=True))

    return lambda value: [write(each) for (write, _), each in zip(columns, value, strict=True)], back


def _mapping(hint: Any) -> tuple[Dump, Load]:
    key, value = get_args(hint)
    if key is not str:
        raise TypeError(f"a stored record cannot hold {hint}")
    write, read = shape(value)

    def back(raw: object) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise ValueError(f"{type(raw).__name__} where an object belongs")
        return {name: read(each) for name, each in raw.items()}

    return dict if write is _same else lambda items: {name: write(each) for name, each in items.items()}, back


_GENERIC: dict[Any, Callable[[Any], tuple[Dump, Load]]] = {
    Literal: _literal,
    Union: _optional,
    types.UnionType: _optional,
    list: _sequence(list),
    tuple: _tuple,
    dict: _mapping,
}
