"""Orders: in which order hooks may run that stand at one point."""

from collections.abc import Iterator

from tests.integration.trees.places import Actor, all_atoms, atoms
from tests.integration.trees.programs import Program


def orders_of(acting: list[Actor], program: Program) -> set[tuple[int, int]]:
    """Who stands before whom, by number: as declared and, where nothing is, writers before readers."""
    declared = closure(_declared(acting, program))
    by_access = {(i, j) for i, j in _by_access(acting) if (i, j) not in declared and (j, i) not in declared}
    return closure(declared | by_access)


def closure(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """What follows from these orders."""
    found = set(pairs)
    while more := {(i, k) for i, j in found for other, k in found if j == other} - found:
        found |= more
    return found


def overlap(one: Actor, other: Actor) -> frozenset[str]:
    """What both write."""
    return all_atoms(one.named(one.act.writes)) & all_atoms(other.named(other.act.writes))


def _declared(acting: list[Actor], program: Program) -> set[tuple[int, int]]:
    groups = {callback.number: group for group in program.groups for callback in group}
    found = set()
    for i, first in enumerate(acting):
        for j, second in enumerate(acting):
            one, other = first.callback, second.callback
            assert one and other and first.hook and second.hook
            if one is not other:
                if groups[one.number] is groups[other.number] and first.rank < second.rank:
                    found.add((i, j))
                if {other.title, other.name(second.hook)} & set(first.hook.before):
                    found.add((i, j))
                if {one.title, one.name(first.hook)} & set(second.hook.after):
                    found.add((i, j))
            elif first.rank < second.rank:
                found.add((i, j))
    return found


def _by_access(acting: list[Actor]) -> Iterator[tuple[int, int]]:
    """A writer before each that reads and does not write the same."""
    for i, first in enumerate(acting):
        for j, second in enumerate(acting):
            own = all_atoms(second.named(second.act.writes))
            for name in first.named(first.act.writes):
                read = all_atoms(second.named(second.act.reads))
                if i != j and atoms(name) & read and not atoms(name) & own:
                    yield i, j
