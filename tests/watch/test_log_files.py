"""Where a log writes: CSV that resumes, TensorBoard, functions; and its picture."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
import torch
from tests.watch.logged_models import HEADS, Model

from regard.watch.log import Log
from regard.watch.log_figures import FIGURES, Figures
from regard.watch.log_history import COLUMNS, History


def run(log: Log, model: Model, steps: int) -> Log:
    for _ in range(steps):
        with log:
            model(torch.randn(2, 5, 16))
    return log


def test_csv_has_a_row_a_step_layer_and_head(tmp_path):
    path, model = tmp_path / "runs" / "attention.csv", Model()
    log = run(Log(model, every=2, to=path), model, 3)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "layer", "head", "entropy", "max_logit", "first_token", "keys"]
    places = [(int(row["step"]), row["layer"], int(row["head"])) for row in rows]
    assert places == [(s, f"layers.{n}", h) for s in (0, 2) for n in (0, 1) for h in range(HEADS)]
    for row in rows:
        figures = log.history[int(row["step"]) // 2]
        for figure in FIGURES:
            told = getattr(figures[row["layer"]], figure)[int(row["head"])]
            assert float(row[figure]) == pytest.approx(told.item(), rel=1e-6)
        assert row["keys"] == "5"


def test_each_step_is_on_the_disk_when_it_ends(tmp_path):
    path, model = tmp_path / "a.csv", Model(layers=1)
    log = Log(model, every=1, to=path)
    for steps in (1, 2, 3):
        run(log, model, 1)
        assert len(path.read_text().splitlines()) == 1 + steps * HEADS


def test_a_resumed_training_continues_its_file(tmp_path):
    path, model = tmp_path / "a.csv", Model()
    run(Log(model, every=2, to=path), model, 7)  # 0, 2, 4, 6
    before = path.read_text()
    log = Log(model, every=2, to=path, start=3)  # from a checkpoint at 3: 4 and 6 are trained again
    assert log.history.steps == [0, 2]
    assert path.read_text() == before  # nothing is lost before there is something new
    run(log, model, 5)
    assert History.read(path).steps == log.history.steps == [0, 2, 4, 6]
    text = path.read_text()
    assert text.startswith(before[: before.index("\n4,") + 1])
    assert text != before
    assert text.count("step") == 1
    assert len(text.splitlines()) == 1 + 4 * 2 * HEADS  # no step is there twice


def test_a_step_that_is_there_twice_is_refused(tmp_path):
    path, model = tmp_path / "a.csv", Model(layers=1)
    run(Log(model, every=1, to=path), model, 2)
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(rows + rows))
    with pytest.raises(ValueError, match=r"line 10: head 0 of layers\.0 at step 0, expected head 4; .* twice"):
        History.read(path)


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    path, model = tmp_path / "a.csv", Model(layers=1)
    run(Log(model, every=1, to=path), model, 2)
    whole = path.read_text()
    path.write_text(whole + "2,layers.0,0,1.23")
    log = run(Log(model, every=1, to=path, start=2), model, 1)
    assert path.read_text().startswith(whole)
    assert History.read(path).steps == log.history.steps == [0, 1, 2]
    assert all(len(line.split(",")) == len(COLUMNS) for line in path.read_text().splitlines())


def test_another_run_is_refused(tmp_path):
    path, model = tmp_path / "a.csv", Model(layers=1)
    run(Log(model, every=1, to=path), model, 3)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"holds the steps up to 2 of another run.*start=\.\.\."):
        Log(model, to=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["epoch,loss\n1,2.5\n", "step,layer,head,entropy\n", "no table"])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no file of regard.watch.Log: .* expected 'step,layer,head,entropy"):
        Log(Model(), to=path, start=7)
    assert path.read_text() == text


def test_a_folder_called_csv(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder; expected the path of a CSV file"):
        Log(Model(), to=tmp_path / "a.csv")


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ValueError, match=r"is a file; expected a .csv file, or a folder"):
        Log(Model(), to=tmp_path / "runs")


def test_names_with_commas_survive(tmp_path):
    from regard.watch.log_figures import LayerFigures
    from regard.watch.log_history import as_csv

    numbers = torch.tensor([[1.5, float("nan")], [-3.0, float("inf")], [0.25, 0.5]]).double()
    path = tmp_path / "a.csv"
    path.write_text(",".join(COLUMNS) + "\n" + as_csv(Figures(5, (LayerFigures('a,"b"', *numbers, keys=8),))))
    ((layer,),) = [figures.layers for figures in History.read(path)]
    assert (layer.name, layer.keys) == ('a,"b"', 8)
    for figure, wanted in zip(FIGURES, numbers, strict=True):
        torch.testing.assert_close(getattr(layer, figure), wanted, rtol=0, atol=0, equal_nan=True)


def test_tensorboard_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = Model()
    log = run(Log(model, every=2, to=tmp_path / "runs"), model, 3)  # not closed: what is logged is there
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(log.history[0].scalars())
    for tag in log.history[0].scalars():
        wanted = [figures.scalars()[tag] for figures in log.history]
        assert [event.step for event in events.Scalars(tag)] == [0, 2]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(wanted, rel=1e-5)
    log.close()


def test_a_resumed_training_continues_its_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = Model(layers=1)
    run(Log(model, every=2, to=tmp_path), model, 7).close()  # 0, 2, 4, 6
    run(Log(model, every=2, to=tmp_path, start=4), model, 1).close()  # 4 again; 6 is not there any more
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("attention/entropy")] == [0, 2, 4]


def test_a_writer_of_ones_own_is_not_closed():
    class Writer:
        added: list[tuple[str, float, int]]

        def __init__(self) -> None:
            self.added = []

        def add_scalar(self, tag, value, step):
            self.added.append((tag, value, step))

        def flush(self):
            self.added.append(("flushed", 0.0, -1))

        def close(self):
            raise AssertionError("closed by somebody else")

    model, writer = Model(layers=1), Writer()
    log = run(Log(model, every=1, to=writer), model, 1)
    log.close()
    assert {tag: value for tag, value, step in writer.added if step == 0} == log.history[0].scalars()
    assert writer.added[-1][0] == "flushed"


def test_without_tensorboard_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'regard\[log\]'"):
        Log(Model(), to=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_function_and_a_list(tmp_path):
    model, told = Model(layers=1), []
    log = run(Log(model, every=2, to=[tmp_path / "a.csv", lambda step, fig: told.append((step, fig))]), model, 3)
    assert [step for step, _ in told] == [0, 2]
    assert told[1][1] is log.history[1]
    assert (tmp_path / "a.csv").exists()


def test_picture_has_a_line_a_layer():
    model = Model(layers=2)
    figure = run(Log(model, every=1), model, 3).plot()
    assert len(figure.axes) == 4
    figures = run(log := Log(model, every=1), model, 2).history
    for axes, name in zip(log.plot().axes, ("entropy", "min_entropy", "max_logit", "first_token"), strict=True):
        assert [line.get_label() for line in axes.lines] == ["layers.0", "layers.1"]
        for line in axes.lines:
            wanted = [each[line.get_label()].summary()[name] for each in figures]
            assert list(line.get_xdata()) == [0, 1]
            assert list(line.get_ydata()) == wanted


def test_picture_shows_all_of_every_line():
    model = Model()
    with torch.no_grad():  # the heads of the first layer differ a lot, so that mean and smallest do
        model.layers[0].q.weight[:8] *= 30
    figure = run(Log(model, every=1), model, 3).plot()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            assert all(low <= value <= high for value in line.get_ydata())
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_picture_says_where_figures_stop_to_be_finite():
    model = Model()
    log = run(Log(model, every=1), model, 2)
    assert not any(axes.texts for axes in log.plot().axes)
    with torch.no_grad():
        model.layers[1].q.weight[0] = torch.nan
    run(log, model, 2)
    for axes in log.plot().axes:
        assert [text.get_text() for text in axes.texts] == [" not finite from step 2 "]


def test_picture_spans_steps_with_nothing_to_draw():
    model = Model()
    log = run(Log(model, every=1), model, 2)
    with torch.no_grad():
        for layer in model.layers:
            layer.q.weight.fill_(torch.nan)
    run(log, model, 4)
    for axes in log.plot().axes:
        low, high = axes.get_xlim()
        assert (round(low), round(high)) == (0, 5)
        assert low <= 0
        assert high >= 5


def test_picture_of_many_layers_has_a_colour_bar():
    model = Model(layers=12)
    figure = run(Log(model, every=1), model, 2).plot()
    assert len(figure.axes) == 5
    assert [label.get_text() for label in figure.axes[4].get_yticklabels()] == ["layers.0", "layers.6", "layers.11"]
    assert not figure.legends


def test_a_picture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to plot: no step was logged yet"):
        Log(Model()).plot()


def test_importing_a_log_brings_in_torch_alone():
    code = (
        "import sys, regard.watch.log, regard.watch.callbacks as c; m = sys.modules; "
        "print([n for n in ('tensorboard', 'matplotlib', 'transformers', 'lightning', 'pytorch_lightning') if n in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
