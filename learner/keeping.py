"""Keeping: a run as a checkpoint holds it, taken between two rounds and taken up again."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from learner.changed import changes, described, hyper_of
from learner.errors import ResumeWarning
from learner.places import Places, loader_fields
from learner.stopping import Request
from stages import Assembly, Runner
from stages.clearing import Clearing, clearings
from stages.limit import TOTALS, Limit
from stages.phases import Phase
from stages.resuming import Resumption, why_not
from stages.standing import Standing
from state.bundle import Bundle, write_bundle
from state.errors import SnapshotError
from state.packing import Packer, unpack
from state.parts import optimized
from state.snapshot import VALUES, Restoration, Snapshot

if TYPE_CHECKING:
    from learner.bound import Bound


LOADERS = "_loaders"
"""What the names of the tensors begin with that tell where the loaders are: no field can have that name."""


class Waiting(NamedTuple):
    """A run that stands between two rounds, and goes on with the next `fit`."""

    restoration: Restoration
    standing: Standing
    limit: Mapping[str, Any] | None
    phase: str | None  # whose pass goes on
    place: Mapping[str, Any] | None  # where in it


class Keeper:
    """Takes what a Learner runs as a snapshot, and gives it back.

    Attributes:
        waiting: how the next `fit` goes on, where a checkpoint was taken inside a run; else None.
        places: where the loaders are.
        request: whether a signal asked for the end of the run.
    """

    def __init__(self, bound: "Bound") -> None:
        self._bound = bound
        self.places = Places()
        self._reasons: dict[str, str] = {}
        self._is_watching = False
        self._hyper: dict[str, list[Any]] | None = None
        self._begun: dict[str, Any] = {}  # what counts in a run that was taken up, though the code has it otherwise
        self._described: tuple[Assembly, dict[str, Any]] | None = None
        self._clearings: tuple[Assembly, list[Clearing]] | None = None
        self.waiting: Waiting | None = None
        self.request = Request()

    def watch(self) -> None:
        """Note where each pass over a loader begins, so that one can be taken up in the middle."""
        self._is_watching = True
        self.follow(self._bound.runner)

    def note(self) -> None:
        """Note, before anything has run or is taken up, what the user's code has set in the optimizers."""
        if self._hyper is None:
            self._hyper = hyper_of(self._bound.state)

    def follow(self, runner: Runner) -> None:
        """This one runs from now on."""
        self._reasons.clear()
        runner.begins_pass = self.places.begin if self._is_watching else None

    def can_stop_here(self) -> bool:
        """Whether a run could go on from where this one stands."""
        standing = self._standing()
        if standing is None:
            return False
        return not self._why_not(standing.path)

    def why_nowhere(self) -> str:
        """Why a run of this tree could go on from nowhere; "" if there is a loop between whose rounds it can."""
        rounds = {path: node.round for path, node in self._bound.runner.nodes.items()}
        reasons = [self._why_not(path) for path, round in rounds.items() if round is not None and round.point]
        return "" if "" in reasons else reasons[0]

    def is_between_epochs(self) -> bool:
        """Whether the loop that it stands in is that of the epochs."""
        standing = self._standing()
        return standing is not None and self._bound.runner.nodes[standing.path].each == "epoch"

    def is_ending(self) -> bool:
        """Whether the run is about to end, between two epochs."""
        standing, runner = self._standing(), self._bound.runner
        if standing is None or not self.is_between_epochs():
            return False
        return standing.ending is not None or (runner.limit is not None and runner.limit.is_reached(runner.values))

    def total(self, unit: str) -> int:
        """How many "batches", "updates" or "epochs" are over."""
        return int(self._bound.runner.values.get(TOTALS[unit], 0))

    def value(self, name: str) -> Any:
        """What a field holds, or None."""
        return self._bound.runner.values.get(name)

    def take(self) -> tuple[Snapshot, dict[str, Any]]:
        """What the State holds now, and where the run stands.

        Raises:
            SnapshotError: a field holds what a checkpoint cannot hold.
        """
        bound, runner = self._bound, self._bound.runner
        standing = self._standing()
        limit = runner.limit if standing is not None else None
        run = {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": str(torch.__version__),
            "position": list(runner.read_position()),
            "records": None if runner.recording is None else runner.recording.end(),
            "standing": None if standing is None else [standing.path, standing.ending and list(standing.ending)],
            "limit": None if limit is None else limit.saved(),
            "history": [dict(row) for row in bound.history],
            "made": self._made() | self._begun,
        }
        snapshot = Snapshot.of(
            bound.state, grads=tuple(runner.state.components(torch.nn.Module)), cleared=self._cleared(standing)
        )
        packer = Packer()
        inside = None if standing is None else self._pass_at(standing)
        run["loaders"] = packer.pack(self.places.taken(runner, inside), LOADERS)
        snapshot.tensors[VALUES].update(packer.tensors)
        return snapshot, run

    def save(self, path: Path) -> None:
        """Write a checkpoint, at rest or between two rounds."""
        snapshot, run = self.take()
        write_bundle(path, snapshot.tensors, {"state": snapshot.document, "run": run})

    def give(self, bundle: Bundle, *, partial: Iterable[str] = (), limit: Limit | None = None) -> None:
        """Take a State up from a checkpoint. A run that stood in the middle goes on with the next `fit`.

        Args:
            limit: that of this `fit`, if it follows at once.

        Raises:
            SnapshotError, PositionError, LimitError: it does not fit; nothing has changed.
        """
        bound, run = self._bound, bundle.documents["run"]
        standing = None if run["standing"] is None else _stood(run["standing"])
        if standing is not None and standing.path not in bound.runner.nodes:
            told = f"The run stood in {standing.path!r}, which this tree does not have."
            raise SnapshotError(f"{told} Build the tree that the checkpoint was taken of.")
        snapshot = Snapshot({name: dict(group) for name, group in bundle.tensors.items()}, bundle.documents["state"])
        restoration = Restoration.of(bound.state, snapshot, partial=partial)
        places = unpack(run["loaders"], bundle.tensors.get(VALUES, {}))
        made, begun = self._made(), run["made"]
        bound.sow_loaders(begun["seed"])
        try:
            self.places.check(bound.runner, places)
            if limit is not None and run["limit"] is not None:
                limit.resumed(run["limit"])
            restoration.apply()
        except BaseException:
            bound.sow_loaders(self._begun.get("seed", bound.seed))
            raise
        self.places.give(bound.runner, places)
        restoration.apply_generators()
        bound.history.replace(run["history"])
        bound.forget_seed()
        held = hyper_of(bound.state)
        changed = changes(begun, made, held)
        lost = {
            name: then for name, then in begun.get("hyper", {}).items() if held.get(name) != made["hyper"].get(name)
        }
        self._begun = {"seed": begun["seed"], "hyper": made["hyper"] | lost}  # what is overwritten is told each time
        self.waiting = None
        if standing is not None:
            phase = self._pass_at(standing)
            place = None if phase is None else places[loader_fields(bound.runner)[phase]]
            self.waiting = Waiting(restoration, standing, run["limit"], phase, place)
        if changed and (standing is not None or limit is not None):  # else it is no run that goes on
            lines = "".join(f"\n- {line}" for line in changed)
            warnings.warn(
                ResumeWarning(f"This is not the program that the checkpoint was taken of:{lines}"), stacklevel=4
            )

    def go_on(self, limit: Limit) -> None:
        """Run from where the waiting run stood, up to the limit that it had."""
        assert self.waiting is not None
        waiting, runner = self.waiting, self._bound.runner
        limit = limit if waiting.limit is None else limit.resumed(waiting.limit)
        self.waiting = None
        chain = [runner.nodes[place.path] for place in runner.nodes[waiting.standing.path].place.ancestors()][::-1]

        def begin(loader: Any) -> Iterator[Any]:
            if waiting.phase is None or waiting.place is None:
                return iter(())
            return self.places.go_on(waiting.phase, loader, waiting.place)

        restoration = waiting.restoration
        resumption = Resumption(waiting.standing, chain, begin, restoration.apply_scoped, restoration.apply_generators)
        runner.resume(resumption, limit)

    def _made(self) -> dict[str, Any]:
        """What the Learner was made with, as it was before anything was restored."""
        bound = self._bound
        if self._described is None or self._described[0] is not bound.assembly:
            self._described = bound.assembly, described(bound.assembly, bound.state, bound.seed)
        self.note()
        return self._described[1] | {"hyper": self._hyper}

    def _why_not(self, path: str) -> str:
        """Why a run could not go on from between two rounds of a loop; "" if it could."""
        if path not in self._reasons:
            runner = self._bound.runner
            self._reasons[path] = why_not(runner.nodes[path].place, runner.state.specs)
        return self._reasons[path]

    def _cleared(self, standing: Standing | None) -> set[int]:
        """The parameters, by their ids, whose gradients the next round clears before anybody reads them."""
        bound = self._bound
        if standing is None or not self._goes_on_surely(standing):
            return set()
        if self._clearings is None or self._clearings[0] is not bound.assembly:
            self._clearings = bound.assembly, clearings(bound.assembly.places)
        cleared = {
            one.module: set(map(id, optimized(bound.runner.values[one.optimizer])))
            for one in self._clearings[1]
            if one.path.startswith(f"{standing.path}/")
        }
        modules = bound.runner.state.components(torch.nn.Module)  # which may have parameters in common
        others = {
            id(p) for name, one in modules.items() for p in one.parameters() if id(p) not in cleared.get(name, ())
        }
        return set().union(*cleared.values()) - others

    def _goes_on_surely(self, standing: Standing) -> bool:
        """Whether the loop has another round, unless somebody cancels the run."""
        runner = self._bound.runner
        if standing.ending is not None or (runner.limit is not None and runner.limit.is_reached(runner.values)):
            return False
        loader: Any = runner.values.get(loader_fields(runner).get(standing.path, ""))
        try:
            return self.is_between_epochs() or runner.values["batch_index"] + 1 < len(loader)
        except (KeyError, TypeError):  # it has no length
            return False

    def _pass_at(self, standing: Standing) -> str | None:
        """The phase that goes on with its pass over the data from there."""
        above = self._bound.runner.nodes[standing.path].place.ancestors()
        path = next((place.path for place in above if isinstance(place.stage, Phase)), None)
        return None if path == standing.path and standing.ending is not None else path

    def _standing(self) -> Standing | None:
        round = self._bound.runner.round
        return None if round is None else round.standing


def _stood(saved: Any) -> Standing:
    path, ending = saved
    return Standing(path, None if ending is None else tuple(ending))
