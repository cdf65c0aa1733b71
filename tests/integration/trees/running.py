"""Running: a program put together and run by the library, under the whole guard."""

from typing import Any

from hypothesis import HealthCheck, Phase, settings

from stages import Runner
from stages.assembly import Assembly, assemble
from stages.callbacks import hooks_of
from state.recording import Recording
from state.schema import upgrade
from state.stores import MemoryStore
from tests.integration.trees.building import Builder
from tests.integration.trees.components import Values
from tests.integration.trees.programs import Program


def times(examples: int) -> settings:
    """The settings for so many examples. Those that fail are made smaller, but not explained, which takes long."""
    phases = [Phase.generate, Phase.shrink]
    return settings(max_examples=examples, database=None, phases=phases, suppress_health_check=list(HealthCheck))


def put_together(program: Program, builder: Builder) -> tuple[Assembly, Values]:
    """The program as the library sees it, and its State."""
    state = builder.world.state(program.given)
    return assemble(builder.tree(program.tree), hooks_of(builder.callbacks(program)), type(state), state), state


def runner_of(program: Program, builder: Builder, *, debug: bool = True) -> Runner:
    """What runs it; in debug every boundary of every round is looked at."""
    assembly, state = put_together(program, builder)
    upgrade(state, assembly.schema)
    runner = Runner(assembly, state, Recording(MemoryStore(), "summary", {}), guard="contents")
    runner.watch_by("contents", debug=debug)
    return runner


def table(rows: dict[str, Any]) -> str:
    """What was proven, as a table."""
    width = max(map(len, rows))
    return "\n" + "".join(f"{name:<{width}}  {number:>8}\n" for name, number in rows.items())
