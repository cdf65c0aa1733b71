"""Names and values as a page has them: numbered as they are first needed, shortened, and plain for JSON."""

from typing import Any

from state.fields import MISSING
from state.records import Records
from state.statistics import Summary


class Names:
    """The slots and templates that something on the page refers to. Only their names come along."""

    def __init__(self, records: Records, text: int) -> None:
        """Texts longer than `text` characters are cut."""
        self._records = records
        self._most = text
        self._slots: dict[int, int] = {}
        self._templates: dict[int, int] = {}

    def slot(self, number: int) -> int:
        """The number that a slot has on the page."""
        return self._slots.setdefault(number, len(self._slots))

    def template(self, number: int) -> int:
        """The number that a template has on the page."""
        return self._templates.setdefault(number, len(self._templates))

    def tables(self) -> dict[str, Any]:
        """All that was asked for: slots as [actor, kind, field or None, evidence], actors as [path, source]."""
        templates = [[self.slot(slot) for slot in self._records.slots_of(number)] for number in self._templates]
        actors: dict[tuple[str, str], int] = {}
        fields: dict[tuple[str, str], int] = {}
        rows: list[list[Any]] = []
        for number in self._slots:
            slot = self._records.slots[number]
            actor = actors.setdefault((self.text(slot.actor), self.text(slot.source)), len(actors))
            field = None
            if slot.field is not None:
                field = fields.setdefault((self.text(slot.field), self.text(slot.scope)), len(fields))
            rows.append([actor, slot.kind, field, self.text(slot.evidence)])
        return {"templates": templates, "slots": rows, "actors": list(actors), "fields": list(fields)}

    def value(self, value: object) -> Any:
        """A value for JSON: plain, or a list of what it is and its parts."""
        match value:
            case None | bool():
                return value
            case str():
                return self.text(value)
            case int():
                return value if abs(value) < 2**53 else ["big", self.text(str(value))]
            case float():
                return value if value - value == 0.0 else ["float", repr(value)]
            case Summary():
                numbers = [n if n is None or n - n == 0.0 else repr(n) for n in value[1:5]]
                where = None if value.where is None else self.text(value.where)
                return ["summary", self.text(value.text), *numbers, value.fingerprint, where]
        return ["absent"] if value is MISSING else ["other", self.text(repr(value))]

    def text(self, text: str) -> str:
        """A text, cut if it is long, in which nothing hides: no control character, and none that turns text round."""
        shown = text if len(text) <= self._most else f"{text[: self._most - 1]}…"
        return shown if shown.isprintable() else "".join(map(_visible, shown))


def _visible(character: str) -> str:
    return character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
