"""Parts of components by type, their plain values and their tensors."""

import enum
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from state.parts import is_saveable, parts_of, scalars, tensors

MODULE = ("params", "grads", "buffers", "mode")
OPTIMIZER = ("state", "hyper")
STATEFUL = ("state",)


class Saver:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Metric(nn.Module):
    """As torchmetrics' own: a module that counts, whose contents are one part."""

    def update(self) -> None: ...
    def compute(self) -> None: ...
    def reset(self) -> None: ...


class Half:
    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (nn.Linear, MODULE),
        (nn.Module, MODULE),
        (SGD, OPTIMIZER),
        (Optimizer, OPTIMIZER),
        (torch.optim.lr_scheduler.StepLR, STATEFUL),
        (torch.optim.lr_scheduler.ReduceLROnPlateau, STATEFUL),
        (torch.amp.GradScaler, STATEFUL),
        (Saver, STATEFUL),
        (Metric, STATEFUL),
        (type("Accuracy", (Metric,), {}), STATEFUL),
        (nn.ModuleDict, MODULE),
        (Half, ()),
        (Tensor, ()),
        (int, ()),
        (dict, ()),
        (None, ()),
        (Any, ()),
        (nn.Module | None, MODULE),
        (Annotated[nn.Module, "the teacher"], MODULE),
        (Optimizer | Saver, ("state", "hyper")),
        (Callable[..., nn.Module], ()),
        (list[nn.Module], ()),
        (type[nn.Module], ()),
    ],
)
def test_parts_follow_from_the_type(kind: Any, parts: tuple[str, ...]) -> None:
    assert parts_of(kind) == parts


def test_collection_of_metrics_is_one_part_as_each_of_them() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    assert parts_of(torchmetrics.MetricCollection) == parts_of(torchmetrics.MeanMetric) == STATEFUL


@pytest.mark.parametrize(
    ("annotation", "saveable"),
    [
        (int, True),
        (Tensor | None, True),
        (dict[str, list[Tensor]], True),
        (tuple[int, ...], True),
        (Literal["a"], True),
        (Annotated[float, "rate"], True),
        (enum.Enum, True),
        (nn.Module, True),
        (Saver, True),
        (Any, True),
        (Half, False),
        (list[Half], False),
        (Callable[..., Any], False),
        (Half | None, False),
    ],
)
def test_plain_values_tensors_and_components_can_be_saved(annotation: Any, saveable: bool) -> None:
    assert is_saveable(annotation) is saveable


def weights(count: int = 1) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(1)) for _ in range(count)]


def test_hyper_gives_the_scalars_of_the_groups() -> None:
    found = scalars(SGD(weights(), lr=0.1, momentum=0.9), "hyper")
    assert (found["lr"], found["momentum"], found["nesterov"]) == (0.1, 0.9, False)
    assert "params" not in found
    assert scalars(Adam(weights()), "hyper")["betas"] == "(0.9, 0.999)"


def test_groups_that_differ_are_told_as_text_and_no_name_is_left_out() -> None:
    optimizer = SGD([{"params": weights()}, {"params": weights(), "lr": 0.5, "own": 3}], lr=0.1)
    found = scalars(optimizer, "hyper")
    assert (found["lr"], found["momentum"], found["own"]) == ("0.1, 0.5", 0, "None, 3")


def test_parameter_names_are_no_hyper_parameter() -> None:
    model = nn.Linear(1, 1)
    assert "param_names" not in scalars(SGD(model.named_parameters(), lr=0.1), "hyper")


def test_a_tensor_lr_is_read_on_the_cpu_and_nowhere_else() -> None:
    optimizer = Adam(weights(), lr=torch.tensor(0.5), capturable=True)
    assert scalars(optimizer, "hyper")["lr"] == 0.5
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5, device="meta")
    optimizer.param_groups[0]["betas"] = (torch.tensor(0.5, device="meta"), 0.9)
    found = scalars(optimizer, "hyper")
    assert (found["lr"], found["betas"]) == ("on meta", "('on meta', 0.9)")


def test_odd_hyper_parameters_do_no_harm() -> None:
    optimizer = SGD(weights(), lr=0.1)
    optimizer.param_groups[0].update(lr=float("nan"), vector=torch.ones(2), array=torch.ones(2).numpy(), rule=len)
    found = scalars(optimizer, "hyper")
    assert found["lr"] != found["lr"]
    assert (found["vector"], found["array"]) == ("[1.0, 1.0]", "[1. 1.]")
    assert all(isinstance(value, int | float | str | bool | None) for value in found.values())


def test_mode_tells_train_eval_mixed_and_frozen() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    assert scalars(model, "mode") == {"train": True, "frozen": 0}
    model.eval()
    model[0].weight.requires_grad_(False)
    assert scalars(model, "mode") == {"train": False, "frozen": 1}
    model[1].train()
    assert scalars(model, "mode")["train"] == "mixed"


def test_parts_of_tensors_and_absent_components_have_no_scalars() -> None:
    assert scalars(nn.Linear(1, 1), "params") == {}
    assert scalars(None, "hyper") == {}


def test_tensors_of_a_component() -> None:
    model = nn.BatchNorm1d(2)
    assert [id(t) for t in tensors(model)] == [id(t) for t in (*model.parameters(), *model.buffers())]
    assert [id(t) for t in tensors(SGD(model.parameters(), lr=1))] == [id(t) for t in model.parameters()]
    loose = torch.ones(1)
    assert list(tensors(loose)) == [loose]
    assert list(tensors("text")) == []


def test_a_scheduler_gives_its_numbers_and_a_moment_of_an_optimizer_none() -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))]}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda epoch: 1.0, lambda epoch: 0.5])
    assert scalars(scheduler, "state")["last_epoch"] == 0
    assert scalars(scheduler, "state")["_last_lr"] == "0.001, 0.0005"
    assert not {"optimizer", "lr_lambdas", "_step_count"} & set(scalars(scheduler, "state"))
    assert scalars(optimizer, "state") == {}
