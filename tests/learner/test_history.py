"""History: a row per epoch, its means weighted by samples, as table, curves and frame."""

import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor

from learner import ArgumentError, Callback, Cancel, History, Learner, after, field
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import Composite, Epoch, Train


def table() -> History:
    history = History()
    history.add({"epoch": 0, "train_loss": 2.0, "valid_loss": 3.0, "seconds": 0.5})
    history.add({"epoch": 1, "train_loss": 1.0, "valid_accuracy": tensor(0.75), "seconds": 0.5})
    return history


def test_losses_are_means_over_samples_not_over_batches() -> None:
    train = [(torch.ones(4, 1), torch.zeros(4, 1)), (torch.ones(1, 1), torch.full((1, 1), 5.0))]
    valid = [(torch.ones(3, 1), torch.ones(3, 1)), (torch.full((1, 1), 2.0), torch.zeros(1, 1))]
    model = nn.Linear(1, 1, bias=False)
    weight, total = 2.0, 0.0
    for inputs, targets in train:
        loss, grad = (weight - targets[0].item()) ** 2, 2 * (weight - targets[0].item())
        total += loss * len(inputs)
        weight -= 0.1 * grad
    nn.init.constant_(model.weight, 2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, F.mse_loss, optimizer, train=train, valid=valid, device="cpu")
    (row,) = learner.fit(epochs=1)
    assert model.weight.item() == pytest.approx(weight)
    assert row["train_loss"] == pytest.approx(total / 5)
    assert row["valid_loss"] == pytest.approx((3 * (weight - 1) ** 2 + (2 * weight) ** 2) / 4)


def test_row_is_a_mapping_of_plain_numbers() -> None:
    (row,) = toy_learner().fit(epochs=1)
    assert list(row) == ["epoch", "train_loss", "valid_loss", "seconds"]
    assert row["epoch"] == 0 and row["seconds"] > 0
    assert all(type(value) in (int, float) for value in row.values())


def test_rows_by_number_and_columns_by_name() -> None:
    history = table()
    assert history[-1]["train_loss"] == 1.0
    assert [row["epoch"] for row in history[:1]] == [0]
    assert history["train_loss"] == [2.0, 1.0]
    assert history["valid_accuracy"] == [0.75]
    assert (len(history), [row["epoch"] for row in history]) == (2, [0, 1])


def test_names_are_in_the_order_they_first_came() -> None:
    assert table().names == ["epoch", "train_loss", "valid_loss", "seconds", "valid_accuracy"]


def test_unknown_column_offers_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"there is no 'train_los'.*Did you mean 'train_loss'\?") as caught:
        _ = table()["train_los"]
    assert caught.value.argument == "key"


def test_table_has_a_line_per_epoch_and_gaps_where_nothing_was() -> None:
    lines = repr(table()).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["0", "2", "3", "0.5"]
    assert len({len(line) for line in lines}) == 1
    assert repr(History()) == ""


def test_html_escapes_names_and_values() -> None:
    history = History()
    history.add({"epoch": 0, "<b>loss</b>": 1.0})
    html = history._repr_html_()
    assert "<td>&lt;b&gt;loss&lt;/b&gt;</td>" in html
    assert "<b>" not in html


def test_losses_are_plotted_apart_from_the_rest() -> None:
    left, right = table().plot().axes
    assert [line.get_label() for line in left.lines] == ["train_loss", "valid_loss"]
    assert [line.get_label() for line in right.lines] == ["valid_accuracy"]
    assert list(right.lines[0].get_xdata()) == [1]


def test_plot_takes_the_names_to_show() -> None:
    (axes,) = table().plot("valid_accuracy").axes
    assert [line.get_label() for line in axes.lines] == ["valid_accuracy"]
    with pytest.raises(ArgumentError, match="there is no 'accuracy'") as caught:
        table().plot("accuracy")
    assert caught.value.argument == "key"


def test_plot_of_nothing_is_an_empty_figure() -> None:
    assert not History().plot().axes


def test_to_pandas_has_a_row_per_epoch() -> None:
    frame = table().to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["train_loss"]) == [2.0, 1.0]
    assert frame["valid_loss"].isna().tolist() == [False, True]


def test_cancelled_batches_do_not_weigh() -> None:
    learner = toy_learner(valid=None)

    @learner.before("gradient/loss", when=lambda state: state.batch_index > 0)
    def skip(state: object) -> None:
        raise Cancel("batch", "skipped")

    seen: list[float] = []
    learner.after("gradient/loss")(lambda loss=None: seen.append(loss.item()) if loss is not None else None)
    (row,) = learner.fit(epochs=1)
    assert row["train_loss"] == seen[0]


def test_own_numbers_of_epoch_scope_are_columns() -> None:
    class Count(Callback):
        """Writes numbers and something else when an epoch ends."""

        def fields(self) -> dict[str, object]:
            return {"weight": (float, field(scope="epoch")), "name": (str, field(scope="epoch"))}

        @after("fit", reads=("model",), writes=("weight", "name"))
        def note(self, model: nn.Linear) -> tuple[float, str]:
            return model.weight.item(), "toy"

    (row,) = toy_learner(callbacks=[Count()]).fit(epochs=1)
    assert "weight" in row and "name" not in row


def test_tree_without_epochs_keeps_no_history() -> None:
    tree = Train(turn=Composite(**supervised(valid=False).epoch.stages))
    learner = toy_learner(stages=tree)
    assert len(learner.fit(epochs=2)) == 0
    assert learner.state.epochs_done == 2
    assert "epoch" in Train(Epoch()).stages
