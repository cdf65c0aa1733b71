"""Spoiling: fields and parts that are of no use from one stage on, until another writes them anew."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from state.access import Access


@dataclass(frozen=True)
class Spoilt:
    """Why something is of no use.

    Attributes:
        by: who left it so.
        told: what stands after "of no use after"; `ways` how to put it right, where that is known.
        marks: fields that `by` writes; who reads one of them knows.
        needs: what has to stay as it is until somebody who knows writes it anew: itself, and what `by` reads and
            touches, as scaled gradients need the scale they were made with.
    """

    by: str
    told: str
    ways: str = ""
    marks: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()


class Spoiling:
    """What is of no use at one point of a walk over a tree.

    Where somebody changes what such a name needs, its marks are of no use either: nobody can mend it any more.

    Attributes:
        why: by name, also of those that were written anew since.
        spoilers: who has spoilt each name.
    """

    def __init__(self) -> None:
        self.why: dict[str, Spoilt] = {}
        self.spoilers: dict[str, list[str]] = defaultdict(list)

    def lost(self, ready: set[str]) -> set[str]:
        """The names that are of no use now."""
        return self.why.keys() - ready

    def spoil(self, path: str, access: Access) -> set[str]:
        """An actor has run: what it leaves of no use."""
        needed = {*access.reads}.intersection(access.touches).difference(access.spoils)
        for name in access.spoils:
            self._lose(name, Spoilt(path, path, marks=access.field_writes, needs=frozenset({name, *needed})))
        return set(access.spoils)

    def touch(
        self, path: str, access: Access, written: set[str], ready: set[str], later: Callable[[str], Iterable[str]]
    ) -> set[str]:
        """An actor has written: marks that are of no use from now on.

        Args:
            later: who writes a name further on.
        """
        gone: set[str] = set()
        for name in sorted(self.lost(ready)):
            why = self.why[name]
            changed = sorted(written & why.needs)
            if not changed or (name in written and not {*why.marks}.isdisjoint(access.reads)):
                continue
            whose = "" if changed == [name] else f" with {name!r}"
            told = f"{path} wrote {changed[0]!r}{whose} as {why.by} left it,"
            anew = next((other for other in later(name) if other != path), "a stage that writes it anew")
            names = ", ".join(f"{one}=..." for one in (changed[0].partition(".")[0], *why.marks))
            ways = f"Put {path} after {anew}" + (f", or give one of the two its own: bind({names})." if whose else ".")
            for mark in why.marks:
                self._lose(mark, Spoilt(path, told, ways))
            gone.update(why.marks)
        return gone

    def forget(self, names: set[str]) -> None:
        """A scope closes, and with it what was spoilt in it."""
        for name in self.why.keys() & names:
            del self.why[name]

    def text(self, name: str, later: Iterable[str]) -> str:
        """The rest of the sentence that refuses a reader, and what to do; `later` are those who write it further on."""
        why = self.why[name]
        example = "Unscale() for scaled gradients" if name.endswith(".grads") else "ScaledUpdate() for a scaler"
        after = " and ".join(later) or f"a stage that does, such as {example}"
        ways = why.ways or f"Put the reader after {after}."
        return f"which is of no use after {why.told} until somebody writes it anew. {ways}"

    def _lose(self, name: str, why: Spoilt) -> None:
        self.why[name] = why
        if why.by not in self.spoilers[name]:
            self.spoilers[name].append(why.by)
