"""Strict dataclass ⇄ JSON: every configuration of the project is stored and read back through this file.

A configuration is a frozen, keyword-only dataclass. Nothing is guessed while reading: an unknown key, a missing one or
a value of another type is an error that names the key with its path. The atomic text writers of `files` are lent from
here too.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from dualspec.files import parse_json, read_json, write_bytes_atomic, write_text_atomic

__all__ = ["from_dict", "load_json", "override", "save_json", "to_dict", "write_bytes_atomic", "write_text_atomic"]

FORMAT_VERSION = 1

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain JSON values; nothing is added and nothing is left out.

    Args:
        config: an instance of a dataclass; nested dataclasses, tuples, lists and string-keyed dicts are walked.

    Returns:
        A dict of None, bool, int, float, str, list and dict, one key for each field that the constructor takes.

    Raises:
        TypeError: `config` is not a dataclass instance, or a field holds something JSON has no word for.
        ValueError: a float is not finite.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config must be a dataclass instance, got {type(config).__name__}")
    return {name: _to_json(getattr(config, name), f"{type(config).__name__}.{name}") for name in _keys(type(config))}


def from_dict(cls: type[T], data: Any, *, where: str = "config", require_all: bool = False) -> T:
    """Build a configuration from plain JSON values, strictly.

    Args:
        cls: the dataclass to build.
        data: what `to_dict` returns; an int stands for a float, a list for a tuple, and nothing else is converted.
        where: the name under which errors speak of `data`.
        require_all: also refuse the absence of keys that have a default (for files that `save_json` wrote).

    Returns:
        An instance of `cls`; a union of dataclasses is told apart by the `kind` field of its members.

    Raises:
        ValueError: an unknown key (the nearest right one is named), a missing key, a value of another type, or a value
            that the dataclass itself refuses.
    """
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise TypeError(f"cls must be a dataclass, got {cls!r}")
    if not isinstance(data, dict):
        _refuse(where, f"an object with the keys of {cls.__name__}", data)
    hints = _hints(cls)
    keys = _keys(cls)
    for key in data:
        if key not in keys:
            _refuse_key(where, key, cls, keys)
    values = {}
    for field in fields(cls):
        if not field.init:
            continue
        path = f"{where}.{field.name}"
        if field.name in data:
            values[field.name] = _read(hints[field.name], data[field.name], path, require_all)
        elif require_all or (field.default is MISSING and field.default_factory is MISSING):
            raise ValueError(f"{path} must be given, got no such key; add it to {where}")
    try:
        return cls(**values)
    except ValueError as error:
        joint = "." if re.split(r"\W", str(error), maxsplit=1)[0] in keys else ": "  # it may begin with the field
        raise ValueError(f"{where}{joint}{error!s:.600}") from error


def override(config: T, assignments: Sequence[str]) -> T:
    """Return a copy of a configuration with some fields set from text, as `--set optimizer.lr=1e-4` does.

    Args:
        config: a dataclass instance; it stays as it is.
        assignments: texts `path.to.field=value`. The value is read by the field's type: tuples as `1,2,4`, None as
            `none`, whole dataclasses and dicts as JSON. Setting the `kind` of a union starts that member afresh.

    Returns:
        A new instance of the same class, checked as `from_dict` checks.

    Raises:
        ValueError: a text without `=`, a path set twice, an unknown key (the nearest right one is named) or a value of
            another type.
    """
    data = to_dict(config)
    pairs: dict[str, str] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals or not path:
            _refuse("a setting", "written as KEY=VALUE", assignment, "write for example optimizer.lr=1e-4")
        if path in pairs:
            _refuse(path, "set once", assignment, "leave one of the two away")
        pairs[path] = text.strip()
    for path in sorted(pairs, key=lambda path: (path.count("."), path.rpartition(".")[2] != "kind")):
        _assign(type(config), data, path, pairs[path])
    return from_dict(type(config), data, where=type(config).__name__)


def save_json(config: Any, path: str | os.PathLike[str]) -> None:
    """Write a configuration to a JSON file, atomically, with its class name and the version of this format.

    Raises:
        OSError: the file cannot be written; nothing is left behind then.
    """
    document = {"format_version": FORMAT_VERSION, "type": type(config).__name__, "config": to_dict(config)}
    write_text_atomic(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_json(cls: type[T], path: str | os.PathLike[str], *, require_all: bool = True) -> T:
    """Read a configuration that `save_json` wrote; unknown and missing keys are errors.

    Args:
        cls: the dataclass that the file must hold.
        path: the JSON file, at most 1 MiB.
        require_all: False lets keys that have a default be absent (for files written by hand).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such configuration; the message names the file and the key.
    """
    file = os.fspath(path)
    document = read_json(path)
    if not isinstance(document, dict) or set(document) != {"format_version", "type", "config"}:
        got = sorted(document) if isinstance(document, dict) else document
        _refuse(file, "an object with format_version, type and config", got, "was it written by save_json?")
    version, name = document["format_version"], document["type"]
    if type(version) is not int or version != FORMAT_VERSION:
        _refuse(
            f"{file}: format_version", str(FORMAT_VERSION), version, "it was written by another version of dualspec"
        )
    if name != cls.__name__:
        _refuse(f"{file}: type", f"{cls.__name__!r}", name, "this file belongs to another part")
    return from_dict(cls, document["config"], where=f"{file}: config", require_all=require_all)


def _refuse(where: str, rule: str, value: Any, hint: str = "correct the value") -> NoReturn:
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    raise ValueError(f"{where} must be {rule}, got {shown}; {hint}")


def _refuse_key(where: str, key: object, cls: type, keys: Sequence[str]) -> NoReturn:
    near = _nearest(str(key), keys) or _nearest(str(key), _leaf_paths(cls))
    hint = f"did you mean {near!r}?" if near else "take it away"
    raise ValueError(f"{where} must be made of the keys of {cls.__name__} ({', '.join(keys)}), got {key!r}; {hint}")


def _nearest(word: str, candidates: Sequence[str]) -> str | None:
    """Find the candidate most like a word; a last part that is the word itself wins over any likeness."""
    for candidate in candidates:
        if candidate.rpartition(".")[2] == word:
            return candidate
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.5)
    return close[0] if close else None


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _keys(cls: type) -> list[str]:
    return [field.name for field in fields(cls) if field.init]


def _arms(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _dataclass_arms(hint: Any) -> list[type]:
    return [arm for arm in _arms(hint) if isinstance(arm, type) and is_dataclass(arm)]


def _kinds(cls: type) -> tuple[Any, ...]:
    hint = _hints(cls).get("kind")
    return get_args(hint) if get_origin(hint) is Literal else ()


def _leaf_paths(cls: type, prefix: str = "", depth: int = 6) -> list[str]:
    """List every dotted path below a dataclass, for the suggestion of the nearest right key."""
    paths = []
    for key in _keys(cls):
        paths.append(prefix + key)
        if depth:
            for arm in _dataclass_arms(_hints(cls)[key]):
                paths += _leaf_paths(arm, f"{prefix}{key}.", depth - 1)
    return list(dict.fromkeys(paths))


def _describe(hint: Any) -> str:
    """Say a type in the words of JSON."""
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(word) for word in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(arm) for arm in get_args(hint))
    if origin in (tuple, list):
        return "a list"
    if origin is dict or (isinstance(hint, type) and is_dataclass(hint)):
        return "an object"
    names = {int: "an integer", float: "a finite number", bool: "true or false", str: "a text", type(None): "none"}
    return names.get(hint, str(hint))


def _to_json(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            _refuse(where, "finite", value)
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _to_json(getattr(value, name), f"{where}.{name}") for name in _keys(type(value))}
    if isinstance(value, (list, tuple)):
        return [_to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{where} must have texts as keys, got {list(value)!r}")
        return {key: _to_json(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} must be a value that JSON can hold, got {type(value).__name__}")


def _read(hint: Any, value: Any, where: str, require_all: bool) -> Any:
    """Check one JSON value against one type and convert it (int → float, list → tuple, object → dataclass)."""
    origin = get_origin(hint)
    if hint is Any:
        return _to_json(value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return from_dict(hint, value, where=where, require_all=require_all)
    if origin is Literal:
        return _read_literal(hint, value, where)
    if origin in (Union, types.UnionType):
        return _read_union(hint, value, where, require_all)
    if origin in (tuple, list):
        return _read_sequence(hint, value, where, require_all)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            _refuse(where, _describe(hint), value)
        return {key: _read(get_args(hint)[1], item, f"{where}.{key}", require_all) for key, item in value.items()}
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            _refuse(where, _describe(hint), value)
        return float(value)
    if hint in (bool, int, str, type(None)):
        if type(value) is not hint:
            _refuse(where, _describe(hint), value)
        return value
    raise TypeError(f"{where} has the type {hint!r}, which a configuration cannot have")


def _read_literal(hint: Any, value: Any, where: str) -> Any:
    words = get_args(hint)
    for word in words:
        if type(word) is type(value) and word == value:
            return word
    near = _nearest(value, [word for word in words if isinstance(word, str)]) if isinstance(value, str) else None
    _refuse(where, _describe(hint), value, f"did you mean {near!r}?" if near else "choose one of them")


def _read_union(hint: Any, value: Any, where: str, require_all: bool) -> Any:
    if value is None and type(None) in _arms(hint):
        return None
    arms = [arm for arm in _arms(hint) if arm is not type(None)]
    if len(arms) == 1:
        return _read(arms[0], value, where, require_all)
    if _dataclass_arms(hint) and isinstance(value, dict):
        return _read(_member(_dataclass_arms(hint), value, where), value, where, require_all)
    for arm in arms:
        try:
            return _read(arm, value, where, require_all)
        except ValueError:
            continue
    _refuse(where, _describe(hint), value)


def _member(members: Sequence[type], value: dict[str, Any], where: str) -> type:
    """Choose the dataclass of a union whose `kind` is the one that the object names."""
    if len(members) == 1:
        return members[0]
    for member in members:
        if value.get("kind") in _kinds(member):
            return member
    kinds = tuple(kind for member in members for kind in _kinds(member))
    _read_literal(Literal[kinds], value.get("kind"), f"{where}.kind")  # refuses, and names the nearest
    raise AssertionError("a kind is one of the members'")


def _read_sequence(hint: Any, value: Any, where: str, require_all: bool) -> Any:
    if not isinstance(value, (list, tuple)):
        _refuse(where, _describe(hint), value)
    items = get_args(hint)
    if get_origin(hint) is tuple and not (len(items) == 2 and items[1] is Ellipsis):
        if len(value) != len(items):
            _refuse(where, f"a list of {len(items)} values", value)
    else:
        items = (items[0],) * len(value)
    pairs = enumerate(zip(items, value, strict=True))
    read = [_read(item, part, f"{where}[{index}]", require_all) for index, (item, part) in pairs]
    return tuple(read) if get_origin(hint) is tuple else read


def _assign(cls: type, data: dict[str, Any], path: str, text: str) -> None:
    """Set one dotted path inside the dict of a configuration, following the types on the way."""
    hint: Any = cls
    node = data
    parts = path.split(".")
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        where = ".".join(parts[: index + 1])
        before = ".".join(parts[:index])
        members = _dataclass_arms(hint)
        if members:
            if len(members) > 1 and last and part == "kind" and text != node.get("kind"):
                node.clear()
                node["kind"] = text
                return
            owner = _member(members, node, before)
            if part not in _keys(owner):
                _refuse_path(cls, before, where, owner)
            hint = _hints(owner)[part]
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            _refuse(before, "a setting with parts of its own", path, f"set {before} itself")
        if last:
            node[part] = _parse_text(hint, text, where)
        else:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]


def _refuse_path(cls: type, before: str, where: str, owner: type) -> NoReturn:
    here = _nearest(where.rpartition(".")[2], _keys(owner))
    near = where.rpartition(".")[0] + "." * bool(before) + here if here else _nearest(where, _leaf_paths(cls))
    hint = f"did you mean {near!r}?" if near else "look at the resolved configuration for its keys"
    keys = ", ".join(_keys(owner))
    raise ValueError(f"{where} must be a key of {before or cls.__name__} ({keys}), got no such key; {hint}")


def _parse_text(hint: Any, text: str, where: str) -> Any:
    """Read a text as the JSON value of a type; `_read` judges the result."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _parse_union(hint, text, where)
    if origin is Literal:
        return next((word for word in get_args(hint) if str(word) == text), text)
    if origin is dict or hint is Any or (isinstance(hint, type) and is_dataclass(hint)):
        return parse_json(text, where)
    if origin in (tuple, list):
        if text.startswith("["):
            return parse_json(text, where)
        parts = [part.strip() for part in text.strip("()").split(",")]
        parts = parts[:-1] if parts[-1] == "" else parts
        items = get_args(hint)
        fixed = origin is tuple and items[-1] is not Ellipsis and len(items) == len(parts)
        return [_parse_text(items[i] if fixed else items[0], part, f"{where}[{i}]") for i, part in enumerate(parts)]
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if hint is int and re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if hint is float and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text


def _parse_union(hint: Any, text: str, where: str) -> Any:
    arms = [arm for arm in _arms(hint) if arm is not type(None)]
    if type(None) in _arms(hint) and text.lower() in ("none", "null"):
        return None
    if len(arms) == 1:
        return _parse_text(arms[0], text, where)
    for arm in sorted(arms, key=lambda arm: arm is str):
        try:
            value = _parse_text(arm, text, where)
            _read(arm, value, where, False)
            return value
        except ValueError:
            continue
    return parse_json(text, where) if text.startswith("{") else text
