"""Frame: the values of a round that are handed to a person."""

from collections.abc import Iterator, Mapping
from typing import Any

from stages.batch import detached
from state.errors import UnknownField


class Frame(Mapping[str, Any]):
    """Values as they were at the end of a round, by field. Read them as items or attributes.

    Tensors are detached, also those in tuples, lists and mappings.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: detached(value) for name, value in values.items()}

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise UnknownField(name, self._values, who="This frame")
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` where there is none."""
        return self._values.get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Frame({', '.join(self._values)})"
