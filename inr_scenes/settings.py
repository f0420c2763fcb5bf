"""Dataclasses of settings to and from plain dictionaries, checked field by field."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

from .errors import InrError, suggestion


def to_dict(settings) -> dict[str, Any]:
    """Return a dataclass as JSON-able values: tuples become lists."""
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}


def from_dict(cls: type, data: Mapping[str, Any], where: str) -> Any:
    """Build the dataclass `cls`; InrError names the first key that is unknown or of the wrong type, and `where`."""
    return cls(**converted(cls, data, where))


def converted(cls: type, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings with the types that fields of the dataclass `cls` have; raises as `from_dict`."""
    hints = _hints(cls)
    values = {}
    for name, value in data.items():
        if name not in hints:
            raise InrError(f"{where}: there is no setting {name!r}.{suggestion(name, hints)}")
        try:
            values[name] = _convert(hints[name], value)
        except (TypeError, ValueError):
            kind = getattr(hints[name], "__name__", hints[name])
            raise InrError(f"{where}: {name} = {value!r} should be {kind}.") from None
    return values


@functools.cache
def help_of(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, bases included."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        except (OSError, TypeError, SyntaxError):
            continue
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return {f.name: typing.get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _convert(hint, value):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _convert(option, value)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if origin is typing.Literal:
        if value not in args:
            raise ValueError
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise TypeError
        if origin is tuple and args and args[-1] is not Ellipsis:
            if len(args) != len(value):
                raise ValueError
            return tuple(_convert(a, v) for a, v in zip(args, value))
        return origin(_convert(args[0] if args else Any, v) for v in value)
    if hint is type(None):
        if value is not None:
            raise TypeError
        return None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise TypeError
    return value
