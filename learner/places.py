"""Places: where the loaders of a run are, noted while it runs, saved, and found again."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from learner.loader_positions import READING, check_position, position_of, restore_position, way_of
from learner.own_generators import states_of
from stages import Runner
from stages.phases import Phase
from state.snapshot import read_generators, write_generators


class Began(NamedTuple):
    """How a pass began: the states of the program's generators, where they are needed, and of those in the loader."""

    generators: Mapping[str, Any]
    own: Mapping[str, Any]


class Places:
    """The loaders of the phases of one Learner."""

    def __init__(self) -> None:
        self._began: dict[str, Began] = {}

    def begin(self, path: str, loader: Any) -> None:
        """The phase at `path` begins a pass."""
        needs = way_of(loader) == READING
        self._began[path] = Began(read_generators() if needs else {}, states_of(loader))

    def taken(self, runner: Runner, path: str | None) -> dict[str, Any]:
        """Where each loader is, by field. The phase at `path` is in the middle of a pass that it goes on with."""
        found = {}
        for node_path, field in loader_fields(runner).items():
            if field not in runner.values:
                continue
            loader, began = runner.values[field], self._began.get(node_path)
            if node_path == path and began is not None:
                given = runner.values["batch_index"] + 1
                place = position_of(loader, given, runner.values.get("batches"), began=began.own)
                found[field] = {**place, "program": began.generators}
            else:
                found.setdefault(field, position_of(loader, None))
        return found

    def check(self, runner: Runner, saved: Mapping[str, Any]) -> None:
        """Whether the loaders can be brought to where they were.

        Raises:
            PositionError: one of them cannot; nothing has changed.
        """
        for field, place in saved.items():
            if field in runner.values:
                check_position(runner.values[field], place)

    def give(self, runner: Runner, saved: Mapping[str, Any]) -> None:
        """Bring those there that are between two passes."""
        for field, place in saved.items():
            if field in runner.values and place["given"] is None:
                restore_position(runner.values[field], place)

    def go_on(self, path: str, loader: Any, place: Mapping[str, Any]) -> Iterator[Any]:
        """The rest of the pass of the phase at `path`."""
        program = place["program"]
        write_generators(program)
        self._began[path] = Began(program, place.get("began", {}))
        batches = restore_position(loader, place)
        assert batches is not None
        return batches


def loader_fields(runner: Runner) -> dict[str, str]:
    """The field of its loader, by the path of each phase."""
    phases = ((node, node.stage) for node in runner.nodes.values() if node.place.kind == "stage")
    return {node.path: node.names.get(p.loader, p.loader) for node, p in phases if isinstance(p, Phase)}
