"""Actor: who touches State in a tree that runs, and what it does that with."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stages.cancel import is_failure
from stages.describing import settings_of
from stages.errors import StageError
from stages.watching import watched
from state.access import Access, Names, View, own_names, view_of
from state.errors import FieldNotReady
from state.state import writer

if TYPE_CHECKING:
    from stages.runner import Runner


class Actor:
    """Who touches state: a stage or a hook at its place, with its view and its pen for each field it writes."""

    def __init__(
        self, runner: "Runner", path: str, access: Access, kind: str, source: str, names: Names | None = None
    ) -> None:
        self.runner = runner
        self.path = path
        self.access = access
        self.source = source
        self.names: Names = names or {}
        self.forbidden: dict[str, str] = {}  # what composites that it is inside of forbid, by their paths
        self.known = runner.state.specs
        self.each: str | None = None
        recording = runner.recording
        if recording is not None:
            recording.actor(path, kind, source)
            recording.reads(path, () if access.observer else access.reads)
            recording.may_write(path, access.part_writes)
        fields = dict.fromkeys((*access.field_writes, *(self.known if access.unsafe else ())))
        pens = {
            name: watched(self, name, writer(runner.state, name, path, recording, self.slot("write", name, "write")))
            for name in fields
        }
        self.pens = tuple(pens[name] for name in access.field_writes)
        self.writers: Mapping[str, Callable[[Any], None]] = {
            own: pen for name, pen in pens.items() for own in own_names(name, self.names)
        }

    def slot(self, kind: str, name: str | None, evidence: str) -> int | None:
        """The log's number for this actor writing `name`; None where that is not recorded."""
        recording = self.runner.recording
        return None if recording is None else recording.slot(self.path, kind, name, evidence)

    def tell_settings(self, owner: object) -> None:
        """Tell the log the settings of the stage or callback that it acts for."""
        if self.runner.recording is not None:
            self.runner.recording.settings(self.path, settings_of(owner))

    def view(self, kind: Any) -> View:
        """State as this actor may see it."""
        made: View = view_of(kind, self.access, self.known, self.names)(self, self.runner.values)
        return made

    def settle(self) -> None:
        """What changed so far is its doing, and not that of what runs next."""
        if self.runner.audited and self.runner.guard is not None:
            self.runner.guard.settle(self)

    def ended_early(self, error: BaseException) -> BaseException:
        """`error`, with which its code ended, or what the guard has to say of a code that ended by a signal."""
        if self.runner.audited and self.runner.guard is not None:
            if is_failure(error):
                self.runner.guard.forget()
            else:
                try:
                    self.settle()
                except StageError as violation:
                    return violation
        return error

    def not_ready(self, name: str) -> Exception:
        """The error for reading a field without a value."""
        return FieldNotReady(name, self.path, self.runner.explain(name))
