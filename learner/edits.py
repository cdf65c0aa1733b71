"""Edits: how a person changes the tree of a Learner, and hooks functions into it."""

from collections.abc import Callable
from typing import Unpack

from learner.bound import Bound, Function
from learner.hooks import Hooks
from learner.recipes import Part
from stages import Composite
from stages.callbacks import Options
from stages.draw import told_as
from stages.stage import as_stage


class Edits:
    """What a Learner offers to change its tree. Each change is checked whole before anything is changed."""

    _bound: Bound

    def swap(self, path: str, new: Part) -> None:
        """Put another stage into a slot. Refused, with nothing changed, if it starves a reader or orphans a hook.

        A setting that the new stage brings as a field counts from now on, unless it is the one that was brought before.
        """
        old, tree = self._bound.runner.find(path), self.stages.swap(path, new)
        told = f"swap {old.path}: {told_as(as_stage(new))} for {told_as(old.stage)}"
        self._bound.edit(f"swap {path}", tree, told, swapped=old.path)

    def insert(
        self, new: Part, *, before: str | None = None, after: str | None = None, slot: str | None = None
    ) -> None:
        """Put a stage before or after a slot, into a slot of its own. Refused as `swap` is."""
        tree = self.stages.insert(new, before=before, after=after, slot=slot)
        side, path = ("before", before) if before else ("after", after)
        told = f"insert {told_as(as_stage(new))} {side} {self._bound.runner.find(str(path)).path}"
        self._bound.edit(f"insert {side} {path}", tree, told)

    def remove(self, path: str) -> None:
        """Take a stage out. Refused as `swap` is; a hook that stands elsewhere too may lose its place here."""
        old, tree = self._bound.runner.find(path), self.stages.remove(path)
        self._bound.edit(f"remove {path}", tree, f"remove {old.path}: {told_as(old.stage)}", may_lose_places=True)

    def before(self, target: str | type, **options: Unpack[Options]) -> Callable[[Function], Function]:
        """Hook a function before the slots of `target`; a decorator, or `learner.before("update")(function)`."""
        return self._bound.hook("before", target, options)

    def after(self, target: str | type, **options: Unpack[Options]) -> Callable[[Function], Function]:
        """Hook a function after the slots of `target`; a decorator, or `learner.after("update")(function)`."""
        return self._bound.hook("after", target, options)

    def around(self, target: str | type, **options: Unpack[Options]) -> Callable[[Function], Function]:
        """Hook a generator around the slots of `target`; a decorator, or `learner.around("validate")(function)`."""
        return self._bound.hook("around", target, options)

    @property
    def stages(self) -> Composite:
        """The tree as it stands; `swap`, `insert` and `remove` put another in its place."""
        return self._bound.tree

    @property
    def hooks(self) -> Hooks:
        """The hooks by name; `learner.hooks.remove(name)` takes a callback out."""
        return Hooks(self._bound)
