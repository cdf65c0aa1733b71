"""What pydantic makes of a field's annotation: which values it hands back as they are, and what we refuse of it."""

import re
from abc import ABCMeta
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, ForwardRef, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from torch import Tensor

from state.errors import SchemaError

# Schemas of pydantic that hand back a value of the exact type accepted before as it is.
_PLAIN_SCHEMAS = {"is-instance", "any", "int", "float", "str", "bool", "none", "callable"}
# Checks that look at the type of a value only; jaxtyping and torch.FloatTensor bring others.
_BY_TYPE: tuple[Any, ...] = (type.__instancecheck__, ABCMeta.__instancecheck__)
# Schemas that check the value by one that they hold, and where it stands in them.
_AROUND = {
    "default": "schema",
    "custom-error": "schema",
    "function-after": "schema",
    "function-before": "schema",
    "function-wrap": "schema",
    "json-or-python": "python_schema",
    "lax-or-strict": "lax_schema",
}
NUMBERS = {"int", "float", "bool", "complex", "decimal"}
_MODULES = re.compile(r"(?<!['\"\w])(?:[A-Za-z_]\w*\.(?:<locals>\.)?)+(?=[A-Za-z_])")
CONTAINERS = (dict, list, tuple, set, frozenset)


def type_text(annotation: Any) -> str:
    """An annotation without module names."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    if hasattr(annotation, "__metadata__"):
        return type_text(annotation.__origin__)
    return _MODULES.sub("", str(annotation))


def refuse_unusable(name: str, info: FieldInfo) -> None:
    """Refuse what pydantic would take, and what would then not do what it says.

    Raises:
        SchemaError: an annotation that copies the value into a generator or is not defined yet; an alias.
    """
    shown = f"{name} is declared {type_text(info.annotation)}"
    inside = list(_annotations(info.annotation))
    if any(found is each or get_origin(found) is each for found in inside for each in (Iterable, Generator)):
        raise SchemaError(f"{shown}: pydantic would wrap the value into a generator. Annotate it Any, or with a class.")
    if any(isinstance(found, ForwardRef | str) for found in inside):
        raise SchemaError(f"{shown}, which is not defined there yet. Define it above the State class, or import it.")
    if info.alias is not None or info.validation_alias is not None:
        raise SchemaError(f"{name} has an alias. A field has one name; rename it, or bind the stage to it.")


def _annotations(annotation: Any) -> Iterator[Any]:
    """An annotation and the types inside it: not what a callable takes, nor the words of a Literal."""
    yield annotation
    if get_origin(annotation) not in (Literal, Callable):
        inside = get_args(annotation)
        for each in inside[:1] if hasattr(annotation, "__metadata__") else inside:
            yield from _annotations(each)


def alternatives(schema: dict[str, Any], *, through: bool = False) -> list[dict[str, Any]]:
    """The alternatives of a pydantic core schema: members of a union, the inside of an optional.

    With `through`, validators and other wrappers are seen through.
    """
    kind = schema["type"]
    if kind == "nullable":
        return alternatives(schema["schema"], through=through) + [{"type": "none"}]
    if kind == "union":
        choices = (choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"])
        return [member for choice in choices for member in alternatives(choice, through=through)]
    if through and kind in _AROUND:
        return alternatives(schema[_AROUND[kind]], through=True)
    if through and kind == "chain":
        return alternatives(schema["steps"][0], through=True)
    return [schema]


def is_plain(schema: dict[str, Any]) -> bool:
    """Whether a schema hands back a value as it is if it accepted one of the same type before."""
    by_type = schema["type"] != "is-instance" or type(schema["cls"]).__instancecheck__ in _BY_TYPE
    return by_type and schema["type"] in _PLAIN_SCHEMAS and set(schema) <= {"type", "cls", "cls_repr", "metadata"}


def keeps(schema: Any, value: Tensor) -> bool:
    """Whether a schema hands back a Tensor as it is, or leaves it to the user's function."""
    if schema["type"] == "is-instance":
        return isinstance(value, schema["cls"])
    return schema["type"] in ("any", "function-plain")


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    """A pydantic core schema and all that it holds."""
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
        for name, inside in schema.items():
            if name not in ("metadata", "serialization", "json_schema"):
                yield from walk(inside)
    elif isinstance(schema, list | tuple):
        for inside in schema:
            yield from walk(inside)


def tensor_in(value: Any) -> bool:
    """Whether a container holds a Tensor."""
    if isinstance(value, CONTAINERS):
        return any(tensor_in(inside) for inside in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)
