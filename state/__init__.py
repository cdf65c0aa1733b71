"""What exists in a run, who may touch it, and what changed."""

from state.access import Access
from state.change_log import ChangeLog
from state.changes import ABSENT, Change, Changes
from state.errors import (
    AccessDenied,
    FieldNotReady,
    InvalidValue,
    LogDamaged,
    LogWarning,
    MissingExtra,
    RunNotFound,
    SchemaError,
    StateError,
    UnknownField,
)
from state.fields import MISSING, field, invariant
from state.position import Position
from state.state import State
from state.train_state import TrainState

__all__ = [
    "ABSENT",
    "Access",
    "AccessDenied",
    "Change",
    "ChangeLog",
    "Changes",
    "FieldNotReady",
    "InvalidValue",
    "LogDamaged",
    "LogWarning",
    "MISSING",
    "MissingExtra",
    "Position",
    "RunNotFound",
    "SchemaError",
    "State",
    "StateError",
    "TrainState",
    "UnknownField",
    "field",
    "invariant",
]
