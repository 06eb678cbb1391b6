"""Frozen values: what every room hands to every other room.

``dataclasses`` costs the launch path about 12 ms (it imports ``inspect``), a quarter of the
whole budget from command to user code, so this module builds the little that is needed: a
class whose annotated attributes are its fields, compared by type and content, never changed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options: object) -> object:  # noqa: D103
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class ValueType(type):
    """Metaclass that turns annotations into ``__slots__`` and remembers their defaults."""

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> ValueType:
        own = tuple(f for f, kind in space.get("__annotations__", {}).items() if not kind.startswith("ClassVar"))
        defaults = {f: space.pop(f) for f in own if f in space}
        space["__slots__"] = own
        fields: tuple[str, ...] = ()
        inherited: dict[str, object] = {}
        for base in bases:
            fields += getattr(base, "_fields", ())
            inherited |= getattr(base, "_defaults", {})
        space["_fields"] = fields + own
        space["_defaults"] = inherited | defaults
        return super().__new__(mcs, name, bases, space)


class Secret(str):
    """A text that is never shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>" if self else "''"


class Value(metaclass=ValueType):
    """A frozen record. Subclasses only annotate fields, with optional (immutable) defaults.

    Equality and hash take the exact class into account, so two events with the same content
    but different names are different. ``replace`` returns a changed copy.
    """

    _fields: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[dict[str, object]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self._fields
        if len(args) == len(fields) and not kwargs:
            for field, value in zip(fields, args, strict=True):
                object.__setattr__(self, field, value)
            return
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, got {len(args)}")
        content = dict(zip(fields, args, strict=False))
        for key, value in kwargs.items():
            if key in content or key not in fields:
                raise TypeError(f"{type(self).__name__}: {key!r} is given twice or is no field of it")
            content[key] = value
        defaults = self._defaults
        for field in fields:
            if field in content:
                object.__setattr__(self, field, content[field])
            elif field in defaults:
                object.__setattr__(self, field, defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} needs {field!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be set; use replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, f) == getattr(other, f) for f in self._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, f) for f in self._fields)))

    def __repr__(self) -> str:
        shown = (f"{f}={getattr(self, f)!r}" for f in self._fields if getattr(self, f) != self._defaults.get(f, self))
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), tuple(getattr(self, f) for f in self._fields))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with ``changes`` applied. Raises TypeError for an unknown field."""
        values = [changes.pop(f) if f in changes else getattr(self, f) for f in self._fields]
        return type(self)(*values, **changes)  # what is left of the changes is no field

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary (shallow)."""
        return {f: getattr(self, f) for f in self._fields}
