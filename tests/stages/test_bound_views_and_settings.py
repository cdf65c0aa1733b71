"""The view of who was bound, and settings that are annealed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from learner import (
    Callback,
    GraphError,
    Learner,
    Stage,
    TrainState,
    after,
    field,
    supervised,
)
from learner.testing import run_stage, toy_learner
from stages import ClearGradients, Update
from state import AccessDenied, UnknownField


class NetState(TrainState):
    net: nn.Module = field(description="called otherwise than the stock stages call it")
    net_optimizer: torch.optim.Optimizer = field(description="its optimizer")


def learner_on(state: TrainState, tree: Any, *callbacks: Any) -> Learner:
    """A Learner of y = 3x over a State of one's own."""
    toy = toy_learner().state
    return Learner.from_state(state, tree, train=toy.train_loader, valid=toy.valid_loader, callbacks=callbacks)


def on_model(cls: type[TrainState], tree: Any, *callbacks: Any, **values: Any) -> Learner:
    """A Learner whose State is of the class `cls`."""
    model = nn.Linear(1, 1)
    values = {"model": model, "optimizer": SGD(model.parameters(), lr=0.1), "loss_fn": F.mse_loss, **values}
    return learner_on(cls(**values), tree, *callbacks)


# The view of who was bound


class Look(Stage):
    reads = ("model", "loss?", "outputs")
    writes = ("outputs",)

    def __init__(self, look: Any) -> None:
        self.look = look

    def run(self, state: Any) -> None:
        self.look(state)


def seen_by(look: Any) -> Any:
    """What `look` finds in the view of a stage that calls the outputs `loss`, and the model `net`."""
    found: list[Any] = []

    def note(state: Any) -> None:
        found.append(look(state))

    bound = Look(note).bind(model="net", outputs="targets")
    run_stage(bound, NetState(net=nn.Linear(1, 1)), targets="old", inputs="other")
    return found[0]


def test_view_reads_and_writes_by_the_owners_names() -> None:
    def look(state: Any) -> Any:
        state.outputs = "new"
        return state.model.in_features, state.outputs

    assert seen_by(look) == (1, "new")


def test_view_tells_what_is_ready_by_the_owners_names() -> None:
    assert seen_by(lambda state: (state.ready("model"), state.ready("outputs"), state.ready("loss"))) == (
        True,
        True,
        False,
    )


def test_view_lists_what_it_has_by_the_owners_names() -> None:
    assert seen_by(dir) == ["loss", "model", "outputs"]
    assert list(seen_by(lambda state: state.components(nn.Module))) == ["model"]
    assert seen_by(lambda state: state.values_of("batch")) == {"outputs": "old"}


def test_view_prints_what_it_has_by_the_owners_names() -> None:
    table = seen_by(repr).splitlines()
    assert table[0] == "state of look:"
    assert [line.split()[:2] for line in table[1:]] == [["loss", "r-"], ["model", "r-"], ["outputs", "rw"]]


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("targets", AccessDenied, "look may not read 'targets'"),
        ("inputs", AccessDenied, "look may not read 'inputs'"),
        ("modle", UnknownField, "look: State has no field 'modle'. Did you mean 'model'"),
    ],
)
def test_view_refuses_what_its_owner_does_not_declare(name: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        seen_by(lambda state: getattr(state, name))


def test_observer_that_was_bound_reads_everything_by_its_own_names() -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        @after("update", when=lambda state: state.net is not None)
        def look(self, state: Any) -> None:
            self.seen.append((state.net.in_features, state.updates, state.ready("net")))

    watch = Watch()
    learner = toy_learner(callbacks=[watch.bind(net="model")])
    learner.fit(batches=1)
    assert watch.seen == [(1, 1, True)], "a copy shares what it keeps"


# Annealed settings


@dataclass(frozen=True)
class Noise(Stage):
    """Adds noise of a strength that is a field, so that a schedule can write it."""

    start: float = 0.1
    writes = ("inputs",)
    touches = ("rng",)

    def fields(self) -> Mapping[str, Any]:
        return {"sigma": (float, field(default=self.start, ge=0, description="standard deviation of the noise"))}

    def run(self, inputs: Tensor, sigma: float) -> Tensor:
        return inputs + sigma * torch.randn_like(inputs)


def noisy(*, start: float = 0.4) -> Learner:
    learner = toy_learner(valid=None)
    learner.insert(Noise(start), before="gradient")

    @learner.after("epoch", writes=("sigma",))
    def anneal(sigma: float) -> float:
        return sigma / 2

    return learner


def test_setting_begins_with_the_constructors_value_and_is_annealed_on_record() -> None:
    learner = noisy()
    learner.fit(epochs=2)
    assert learner.state.sigma == 0.1
    changes = [(change.actor, change.after) for change in learner.log.history("sigma")]
    assert changes == [("setup", 0.4), ("train/epoch:after:anneal", 0.2), ("train/epoch:after:anneal", 0.1)]
    assert learner.log.blame("sigma").before == 0.2


def test_setting_of_the_users_state_wins_over_the_constructors() -> None:
    class Quiet(TrainState):
        sigma: float = field(default=0.0, ge=0)

    learner = on_model(Quiet, supervised().insert(Noise(0.4), before="fit/batch/gradient"))
    learner.swap("noise", Noise(0.5))
    assert learner.state.sigma == 0.0


def test_stage_that_is_swapped_in_brings_its_own_setting() -> None:
    learner = noisy(start=0.4)
    learner.fit(epochs=1)
    learner.swap("noise", Noise(0.4))
    assert learner.state.sigma == 0.2, "the same setting goes on where it was"
    learner.swap("noise", Noise(0.9))
    assert learner.state.sigma == 0.9 and learner.log.blame("sigma").actor == "user"
    learner.swap("update", Update())
    learner.fit(epochs=1)
    assert learner.state.sigma == 0.45, "another edit leaves it alone"


def test_setting_that_its_field_refuses_is_a_finding() -> None:
    with pytest.raises(GraphError, match="The default of .*noise.sigma is none that the field takes"):
        toy_learner().insert(Noise(-1.0), before="gradient")
    learner = toy_learner(valid=None)
    learner.insert(Noise(), before="gradient")
    learner.after("epoch", writes=("sigma",))(lambda sigma: -1.0)
    with pytest.raises(ValueError, match="may not set 'sigma' to -1.0. The field is float, set by .*noise"):
        learner.fit(epochs=1)


def test_clear_gradients_of_two_optimizers_stand_side_by_side() -> None:
    tree = supervised().insert(ClearGradients().bind(model="net", optimizer="net_optimizer"), before="update", slot="c")
    net = nn.Linear(1, 1)
    net.weight.grad = torch.ones(1, 1)
    learner = on_model(NetState, tree, net=net, net_optimizer=SGD(net.parameters(), lr=0.1))
    learner.fit(batches=1)
    assert net.weight.grad is None and learner.state.model.weight.grad is not None


def test_two_stages_that_bring_one_setting_with_two_values_are_refused() -> None:
    learner = toy_learner(valid=None)
    learner.insert(Noise(0.3), before="gradient")
    with pytest.raises(GraphError, match=r"both bring the field 'sigma', with 0.3 and 0.9. Let one .* bind\(sigma="):
        learner.insert(Noise(0.9), after="noise", slot="more")
    learner.insert(Noise(0.3), after="noise", slot="more")
    learner.insert(Noise(0.9).bind(sigma="other"), after="noise", slot="other")
    assert (learner.state.sigma, learner.state.other) == (0.3, 0.9)
