"""Training: the plan, a resumed run that ends with the same weights, several processes as one, clear errors."""

import itertools
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("rich")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError, OnnxshrinkError  # noqa: E402
from onnxshrink.gates import training  # noqa: E402

from .training_cases import EXAMPLE, examples, recipe, trainer  # noqa: E402


def weights(run):
    return {name: value.clone() for name, value in run.gated.state_dict().items()}


def assert_same(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name in one:
        if tolerance:
            torch.testing.assert_close(one[name], two[name], **tolerance)
        else:
            assert torch.equal(one[name], two[name]), name


# the plan


def test_closings_lie_evenly_in_the_search():
    epochs = training.plan(recipe(search_epochs=2, steps=4, target=0.6, finetune_epochs=3))
    assert [e.phase for e in epochs] == ["dense", "search", "search", "finetune", "finetune", "finetune"]
    assert [c for e in epochs for c in e.closings] == [
        (0.5, 0.25),
        (1.0, 0.5),
        (0.5, 0.75),
        (1.0, 1.0),
    ]
    for before, after in itertools.pairwise(epochs[1:]):  # one learning rate cycle from the search to the end
        assert after.begin == before.end
    assert epochs[-1].end == 1


def test_a_geometric_path_closes_the_same_part_of_what_is_left_each_time():
    own = recipe(steps=4, target=0.0625, path="geometric")
    assert [own.size_at(progress) for progress in (0.0, *own.closings())] == [1.0, 0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize("search", ["uniform", "none"])
def test_every_search_has_the_same_second_cycle(search):
    def cycle(epochs):
        return [(e.begin, e.end) for e in epochs]

    assert cycle(training.plan(recipe(search=search))) == cycle(training.plan(recipe()))


def test_the_ejector_rises_anew_in_each_step():
    own = recipe(search="relaxation", ejector_weight=2.0, ejector_start=0.0, ejector_full=0.8)
    assert own.ejector(0.0) == own.ejector(1 / 3) == 0
    assert own.ejector(1.0) == own.ejector(0.3) == 2
    assert 0 < own.ejector(0.1) < own.ejector(0.2)


def test_bad_recipes():
    for changes, message in (
        ({"search": "random"}, "no search 'random'"),
        ({"form": "soft"}, "no gate form 'soft'"),
        ({"path": "cubic"}, "no path 'cubic'"),
        ({"target": 0.0}, "target is a share"),
        ({"steps": 0}, "needs epochs and steps"),
        ({"epochs": 3}, "no field 'epochs'"),
        ({"form": "step"}, "measured at sigmoid gates"),
        ({"thresholds": [0.1, 0.05]}, "give those of the beginning and the end"),
        ({"thresholds": [0.05]}, "give those of the beginning and the end"),
        ({"thresholds": [0.1, "high"]}, "thresholds is a number, 'high' is not"),
        ({"batch": 0}, "batch is 0; take at least 1"),
        ({"batch": 1.5}, "batch is a whole number, 1.5 is not"),
        ({"distil": 2}, "distil is 2; take at least 0 and at most 1"),
        ({"dense_rate": -0.1}, "dense_rate is -0.1; take at least 0"),
        ({"prune_rate": math.nan}, "prune_rate is nan; take at least 0"),
        ({"weight_decay": math.inf}, "weight_decay is inf; take at least 0"),
        ({"warmup": 1}, "warmup is 1; take at least 0 and at most 0.99"),
        ({"temperature": 0}, "temperature is 0; take at least 0.001"),
        ({"slope": 0}, "slope is 0; take at least 0.001"),
        ({"size": "bytes"}, "no size 'bytes'; take one of macs, parameters, latency"),
        ({"bf16": 1}, "bf16 is true or false, 1 is not"),
        ({"dense_epochs": True}, "dense_epochs is a whole number, True is not"),
    ):
        with pytest.raises(InputError, match=message):
            recipe(**changes)


# runs


@pytest.mark.parametrize(
    "changes",
    [
        {"search": "importance", "vanish": True},
        {"search": "relaxation", "form": "step", "gate_rate": 0.1, "distil": 0.5},
        {"search": "relaxation", "form": "hard-concrete", "gate_rate": 0.1},
        {"search": "relaxation", "slope_end": 20.0, "collapse": False},
    ],
    ids=["importance", "step gates, distilled", "drawn", "annealed, masked"],
)
def test_a_run_that_is_stopped_at_any_epoch_ends_with_the_same_weights(changes, tmp_path):
    whole = trainer(tmp_path / "whole", **changes)
    whole.fit()
    for stop in (1, 2, 3, None):
        parts = trainer(tmp_path / "parts", **changes)
        assert parts.resume() == (stop != 1)
        parts.fit(stop)
    assert whole.size.kept() == parts.size.kept() <= 0.5
    assert_same(weights(whole), weights(parts))


@pytest.mark.parametrize("difference", [0.1, math.nan])
def test_a_sliced_network_that_answers_otherwise_stops_the_run(difference, tmp_path, monkeypatch):
    monkeypatch.setattr(training.trainer, "compare", lambda *_: difference)
    with pytest.raises(OnnxshrinkError, match="sliced network differs"):
        trainer(tmp_path).fit()


def test_a_run_that_is_killed_within_an_epoch_goes_on_from_the_last_one(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.fit()
    killed = trainer(tmp_path / "killed")

    class Killed(BaseException):
        pass

    batches, count = killed.data.training, itertools.count()

    def until_killed(*arguments):
        for batch in batches(*arguments):
            if next(count) == 10:  # in the third epoch, of four batches each
                raise Killed
            yield batch

    killed.data.training = until_killed
    with pytest.raises(Killed):
        killed.fit()
    again = trainer(tmp_path / "killed")
    assert again.resume()
    assert again.done == 2
    again.fit()
    assert_same(weights(whole), weights(again))


def test_a_run_that_is_resumed_at_its_end_has_the_gates_that_it_ended_with(tmp_path):
    """Their slope is no longer that of the recipe's beginning."""
    changes = {"search": "relaxation", "slope_end": 20.0, "collapse": False}
    run = trainer(tmp_path, **changes)
    run.fit()
    again = trainer(tmp_path, **changes)
    again.resume()
    again.fit()
    assert all(torch.equal(one.weights(), two.weights()) for one, two in zip(run._gates, again._gates, strict=True))


def test_another_run_does_not_write_into_a_folder_that_has_a_checkpoint(tmp_path):
    trainer(tmp_path).fit(1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"checkpoint\.pt: this folder has .* another run; go on .* --resume"):
        trainer(tmp_path).fit(1)
    with pytest.raises(InputError, match="another run"):
        trainer(tmp_path).start_from(tmp_path / "dense.pt")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    (tmp_path / "checkpoint.pt").unlink()
    other = trainer(tmp_path, seed=1)
    other.fit(1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_the_log_has_each_epoch_wherever_the_run_was_killed(tmp_path, monkeypatch):
    """Before the checkpoint is written, after it, and within the line of the next epoch."""
    whole = trainer(tmp_path / "whole")
    whole.fit()

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    out = tmp_path / "killed"
    run = trainer(out)
    run.fit(1)
    monkeypatch.setattr(run, "save", die)
    with pytest.raises(Killed):
        run.fit(2)
    again = trainer(out)
    again.resume()
    save = again.save
    monkeypatch.setattr(again, "save", lambda: (save(), die()))
    with pytest.raises(Killed):
        again.fit(2)
    with (out / "log.jsonl").open("a") as file:
        file.write('{"epoch": 3, "phase": "sea')
    assert [line["epoch"] for line in training.read_log(out)] == [1, 2]
    last = trainer(out)
    last.resume()
    last.fit()
    assert [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    for line, other in zip(training.read_log(out), training.read_log(whole.out), strict=True):
        assert line | {"examples_per_second": 0} == other | {"examples_per_second": 0}


def test_a_log_that_is_not_there_or_is_none(tmp_path):
    assert training.read_log(tmp_path) == []
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\nnonsense\n')
    with pytest.raises(InputError, match=r"log\.jsonl: line 2 is no epoch of a log"):
        training.read_log(tmp_path)


def test_the_second_cycle_is_the_same_from_the_dense_network_of_another_run(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.fit()
    other = trainer(tmp_path / "other")
    other.start_from(tmp_path / "whole" / "dense.pt")
    other.fit()
    assert_same(weights(whole), weights(other))


@pytest.mark.parametrize("search", ["importance", "relaxation", "uniform"])
def test_the_target_is_met_and_the_cut_network_is_that_small(search, tmp_path):
    run = trainer(tmp_path, search=search, form="hard-concrete" if search == "relaxation" else "sigmoid")
    run.fit()
    assert 0.4 < run.size.kept() <= 0.5
    fresh = gates.Size(gates.augment(run.gated.network, EXAMPLE))
    assert fresh.whole == pytest.approx(run.size.kept() * run.size.whole)
    lines = training.read_log(tmp_path)
    assert [line["phase"] for line in lines] == [e.phase for e in run.plan]
    differences = [line["collapse_difference"] for line in lines if "collapse_difference" in line]
    assert search == "uniform" or differences
    assert all(difference < 1e-5 for difference in differences)


@pytest.mark.parametrize("form", ["step", "sigmoid", "hard-concrete"])
def test_trained_gates_do_not_cut_the_network_through(form, tmp_path):
    run = trainer(tmp_path, search="relaxation", form=form, size_weight=100.0, gate_rate=1.0, target=0.1)
    run.fit()
    assert run.size.kept() < 0.2  # nearly all gates fell
    assert min(gate.kept for gate in run.gated.gate_list) >= 1


def test_without_a_search_its_fields_and_the_division_of_the_epochs_change_nothing(tmp_path):
    """tools/training_rows.py keeps a row of such a run when they change."""
    from tools.training_rows import OF_SEARCHES

    others = {
        **{"steps": 7, "path": "geometric", "thresholds": (0.1, 0.2), "floor": 0.4, "vanish": True, "form": "step"},
        **{"slope": 9.0, "slope_end": 9.0, "gate_rate": 0.5, "size_weight": 7.0, "ejector_weight": 7.0},
        **{"ejector_start": 0.1, "ejector_full": 0.2, "sigma": 0.1},
    }
    assert set(others) == OF_SEARCHES
    for search in ("uniform", "none"):
        one = trainer(tmp_path / search / "one", search=search)
        other = trainer(tmp_path / search / "other", search=search, search_epochs=1, finetune_epochs=2, **others)
        for run in (one, other):
            run.fit()
        assert [line["phase"] for line in training.read_log(one.out)] == ["dense", *["finetune"] * 3]
        assert_same(one.gated.network.state_dict(), other.gated.network.state_dict())


def test_masked_and_collapsed_training_are_the_same_training(tmp_path):
    """As long as no branch dies: a BatchNorm that reads zeros answers otherwise in training than in evaluation."""
    one, two = (trainer(tmp_path / str(c), collapse=c, weight_decay=0.0) for c in (True, False))
    for run in (one, two):
        run.fit()
        run.gated.eval()
    assert one.size.kept() == pytest.approx(two.size.kept())
    x = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(one.gated(x), two.gated(x), rtol=1e-5, atol=1e-5)


def test_latency_is_a_size(tmp_path):
    gated = trainer(tmp_path / "one").gated
    table = {}
    for cost in gated.coupling.macs:
        into, out = (len(term) for term in cost.terms)
        table[cost.name] = [(i, o, 0.1 + i * o) for i in (1, into) for o in (1, out)]
    run = trainer(tmp_path / "two", size="latency", latencies=table, target=0.6)
    run.fit()
    assert 0.4 < run.size.kept() <= 0.6
    with pytest.raises(InputError, match="there is no table"):
        trainer(tmp_path / "three", size="latency")
    with pytest.raises(InputError, match="there is a table of latencies, but the size is macs"):
        trainer(tmp_path / "three", latencies=table)
    name = next(iter(table))
    for value in (math.nan, -1.0):
        bad = table | {name: [(i, o, value) for i, o, _ in table[name]]}
        with pytest.raises(InputError, match=f"a latency of `{name}` that is no time"):
            trainer(tmp_path / "three", size="latency", latencies=bad)
    nothing = {name: [(i, o, 0.0) for i, o, _ in points] for name, points in table.items()}
    with pytest.raises(InputError, match="all latencies of the table are 0"):
        trainer(tmp_path / "three", size="latency", latencies=nothing)


@pytest.mark.slow
def test_two_processes_give_the_same_result_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("two_processes.py")

    def start(rank, world, out):
        out.mkdir(exist_ok=True)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return subprocess.Popen(
            [sys.executable, str(script), str(out)], env={**os.environ, **own, **address}, stderr=subprocess.PIPE
        )

    started = [start(0, 1, tmp_path / "one"), *(start(rank, 2, tmp_path / "two") for rank in (0, 1))]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-2000:]
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    both = [torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_same(*both)
    assert_same(alone, both[0], rtol=1e-5, atol=1e-5)
    logs = [training.read_log(tmp_path / name) for name in ("one", "two")]
    for line, other in zip(*logs, strict=True):
        assert line["widths"] == other["widths"]
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"bias": False}], ids=str
)
def test_the_statistics_of_the_whole_batch_are_those_of_one_process(options, monkeypatch):
    """Two processes with the same part each: a sum over both is twice that of one."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(training.distributed.collective, "all_reduce", lambda tensor: 2 * tensor)
    torch.manual_seed(0)
    alone, one_of_two = torch.nn.BatchNorm2d(3, **options), torch.nn.BatchNorm2d(3, **options)
    training.synchronize(one_of_two, training.Ranks(0, 2))
    for parameter in (*alone.parameters(), *one_of_two.parameters()):
        torch.nn.init.constant_(parameter, 1.5)
    for mode in (True, True, True, False):
        part = torch.randn(4, 3, 5, 5) + 1
        expected = alone.train(mode)(torch.cat([part, part]))[:4]
        torch.testing.assert_close(one_of_two.train(mode)(part), expected)
        assert_same(one_of_two.state_dict(), alone.state_dict(), rtol=1e-6, atol=1e-6)


# errors


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    run = trainer(tmp_path)
    run.fit(2)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        run.gated.network.head.bias.fill_(float("nan"))
    with pytest.raises(OnnxshrinkError, match=r"epoch 3, by batch 1; the last good checkpoint is .*after epoch 2;"):
        run.fit()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    again = trainer(tmp_path)
    assert again.resume()
    again.fit()


@pytest.mark.parametrize("value", [math.inf, 3e38])
def test_a_network_that_the_last_step_ruined_is_not_saved(value, tmp_path):
    """Parameters that are no numbers, and numbers that answer with none."""
    run = trainer(tmp_path)
    step, count = run.optimizers.step, itertools.count(1)

    def ruin(**options):
        step(**options)
        if next(count) == 4:
            with torch.no_grad():
                run.gated.network.head.weight.fill_(value)

    run.optimizers.step = ruin
    with pytest.raises(OnnxshrinkError, match="ruined by the last batch of epoch 1; there is no checkpoint yet; begin"):
        run.fit()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_more_steps_than_batches_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"the search has 9 steps in 8 batches, .*; take at most steps=8"):
        trainer(tmp_path, steps=9)


def test_steps_that_end_in_one_batch_are_one_and_an_epoch_logs_all_it_closed(tmp_path):
    run = trainer(tmp_path, steps=5, search_epochs=2, collapse=False)
    run.fit(1)
    closed, close = [], run._close

    def record(searched, x):
        found = close(searched, x)
        closed.append((run.done, searched, found["closed"], found["difference"]))
        return found

    run._close = record
    epoch = run.plan[1]
    run.plan[1] = replace(epoch, closings=((0.05, 0.2), (0.3, 0.4), (0.8, 0.9)))  # of four batches: 1, 1 and 3
    run.fit(2)
    assert [searched for _, searched, _, _ in closed] == [0.4, 0.9]
    line = training.read_log(tmp_path)[1]
    assert line["closed"] == sum(count for *_, count, _ in closed) > max(count for *_, count, _ in closed)
    assert line["difference"] == pytest.approx(max(difference for *_, difference in closed), rel=1e-4)


def test_a_checkpoint_of_another_architecture(tmp_path):
    trainer(tmp_path).fit(1)
    with pytest.raises(InputError, match=r"checkpoint\.pt: .*architecture resnet8, the recipe is for resnet20"):
        trainer(tmp_path, of="resnet20").resume()
    from resnet import cifar_resnet

    wider = cifar_resnet(8, (0.5,) * 3, (0.25,) * 3, widths=(8, 6, 8))
    with pytest.raises(InputError, match=r"another architecture: it has \(4, 3, 3, 3\) for"):
        trainer(tmp_path, network=wider).resume()
    with pytest.raises(InputError, match=r"dense\.pt: .*another architecture"):
        trainer(tmp_path, network=wider).start_from(tmp_path / "dense.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no checkpoint of a training"):
        trainer(tmp_path).resume()


@pytest.mark.parametrize(
    ("done", "changes"),
    [
        (1, {"seed": 1}),
        (1, {"slope": 6.0}),
        (2, {"dense_epochs": 3}),
        (2, {"search": "uniform"}),
        (2, {"size": "parameters"}),
        (2, {"search_epochs": 1}),
        (3, {"search_epochs": 3}),
        (3, {"target": 0.4}),
    ],
)
def test_what_is_trained_already_cannot_be_changed(done, changes, tmp_path):
    trainer(tmp_path).fit(done)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    ((name, value),) = changes.items()
    was = getattr(recipe(), name)
    message = rf"checkpoint\.pt: {done} epochs were trained with {name}={was}, the recipe has {name}={value}; give"
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, **changes).resume()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_what_comes_may_be_changed_and_is_told(tmp_path):
    run = trainer(tmp_path)
    run.fit(1)
    for changes in ({"search": "uniform"}, {"target": 0.4}, {"dense_epochs": 2}, {"search_epochs": 3}):
        assert trainer(tmp_path, **changes).resume()
    run.fit(2)
    for changes in ({"prune_rate": 0.01, "bf16": True}, {"collapse": False}, {"target": 0.4}, {"search_epochs": 3}):
        assert trainer(tmp_path, **changes).resume()
    run.fit(3)
    again = trainer(tmp_path, finetune_epochs=2, label_smoothing=0.0)
    said = []
    again.monitor.say = said.append
    assert again.resume()
    assert said == ["from epoch 4 on: finetune_epochs 1 → 2, label_smoothing 0.1 → 0.0"]
    again.fit()
    assert again.done == 5


def test_other_data_of_the_same_shapes_is_refused(tmp_path):
    from data import Augmentation, Examples, InMemory

    def data(pixels, targets):
        return InMemory(Examples(pixels, targets), examples(32), Augmentation(shift=2))

    own = examples()
    trainer(tmp_path, data=data(own.pixels, own.targets)).fit(1)
    assert trainer(tmp_path, data=data(own.pixels ^ 1, own.targets)).resume()  # another decoder's rounding
    for pixels, targets in ((own.pixels.flip(0), own.targets), (own.pixels, own.targets.flip(0))):
        with pytest.raises(InputError, match=r"checkpoint\.pt: this checkpoint was trained with other data"):
            trainer(tmp_path, data=data(pixels, targets)).resume()
    fewer = trainer(tmp_path, data=data(own.pixels[:32], own.targets[:32]))
    said = []
    fewer.monitor.say = said.append
    assert fewer.resume()
    assert said == ["from epoch 2 on: examples 64 → 32"]


def test_a_checkpoint_without_what_gates_and_recipes_have_besides_goes_on(tmp_path):
    trainer(tmp_path).fit(1)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["recipe"] = {"network": "resnet8"}
    del state["examples"], state["sample"]
    state["network"] = {name: value for name, value in state["network"].items() if not name.endswith("_extra_state")}
    torch.save(state, tmp_path / "checkpoint.pt")
    assert trainer(tmp_path).resume()


def test_a_checkpoint_beyond_the_plan_and_one_that_is_a_network_alone(tmp_path):
    trainer(tmp_path, finetune_epochs=2).fit()
    with pytest.raises(InputError, match=r"checkpoint\.pt: .* after epoch 5, the plan ends after 4; give it as many"):
        trainer(tmp_path).resume()
    (tmp_path / "dense.pt").replace(tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt: this is a network alone"):
        trainer(tmp_path).resume()


def test_what_cannot_be_written_is_named_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    run.fit(1)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"part")
        raise RuntimeError("file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"checkpoint\.pt: cannot write: .*file write failed"):
        run.fit(2)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_how_steep_the_sigmoid_is_does_not_decide_what_matters(tmp_path):
    """Importance is measured at gates that are 1, where a steep sigmoid has no gradient."""
    runs = [trainer(tmp_path / str(slope), slope=slope, vanish=True) for slope in (5.0, 1000.0)]
    for run in runs:
        run.fit()
    assert_same(*(run.gated.network.state_dict() for run in runs))


def test_a_target_that_cannot_be_reached(tmp_path):
    run = trainer(tmp_path, target=0.05, floor=0.8)
    with pytest.raises(InputError, match=r"% of the size is left when every gate is at its floor, the target is"):
        run.fit()


def test_a_batch_that_the_data_cannot_fill(tmp_path):
    with pytest.raises(InputError, match=r"an epoch has 64 examples, fewer than a batch of 65; .*batch=64"):
        trainer(tmp_path, batch=65)


def test_a_batch_that_cannot_be_dealt_out():
    with pytest.raises(InputError, match="a batch of 16 cannot be dealt out to 3 processes"):
        training.Ranks(0, 3).shard(16)


# tasks, log and picture


def test_segmentation_is_scored_by_the_mean_intersection_over_union():
    task = training.Segmentation(3)
    target = torch.tensor([[[0, 0, 1], [1, 255, 255]]])
    answers = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    output = torch.nn.functional.one_hot(answers, 3).permute(0, 3, 1, 2).float()
    assert task.score(task.counts(output, target)) == pytest.approx((1 / 2 + 2 / 3) / 2)  # class 2 does not occur


def test_the_loss_of_a_segmentation_is_the_mean_over_parts_of_the_batch():
    output, target = torch.randn(4, 3, 5, 7), torch.randint(0, 4, (4, 5, 7))  # 3 has no label
    weights = (0.5, 2.0, 3.0)
    chosen = output.log_softmax(1).gather(1, target.clamp_max(2)[:, None])[:, 0]
    closed = -(torch.tensor([*weights, 0.0])[target] * chosen).sum() / target.numel()
    task = training.Segmentation(3, weights)
    whole = task.loss(output, target, 0.0)
    torch.testing.assert_close(whole, closed)
    parts = [task.loss(output[part], target[part], 0.1) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(task.loss(output, target, 0.1), sum(parts) / 2)
    torch.testing.assert_close(
        training.Segmentation(3, (1.0,) * 3).loss(output, target, 0.0),
        training.Segmentation(3).loss(output, target, 0.0),
    )
    with pytest.raises(InputError, match="2 weights for 3 classes"):
        training.Segmentation(3, (1.0, 2.0))


def test_distillation_is_nothing_from_oneself_and_has_the_known_gradient():
    output = torch.randn(4, 5, requires_grad=True)
    assert training.distillation_loss(output, output.detach(), 4.0).item() == pytest.approx(0, abs=1e-6)
    teacher, temperature = torch.randn(4, 5), 3.0
    training.distillation_loss(output, teacher, temperature).backward()
    difference = torch.softmax(output / temperature, 1) - torch.softmax(teacher / temperature, 1)
    torch.testing.assert_close(output.grad, difference.detach() * temperature / 4)


def test_the_log_counts_an_epoch_once_and_becomes_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [
        {
            "epoch": n,
            "phase": phase,
            "score": 0.5,
            "kept": 1 - n / 10,
            "widths": {"a": 4, "b": 8 - n},
            "units": {"a": 4, "b": 8},
        }
        for n, phase in enumerate(["dense", "dense", "search", "search", "finetune"], 1)
    ]
    lines[3] |= {"relaxed": 0.7, "undecided": 3, "score_before_closing": 0.5, "score_after_closing": 0.4}
    text = "".join(json.dumps(line) + "\n" for line in [*lines[:3], *lines[2:]])
    (tmp_path / "log.jsonl").write_text(text)
    found = training.read_log(tmp_path)
    assert [line["epoch"] for line in found] == [1, 2, 3, 4, 5]
    training.draw(found, tmp_path / "run.png", title="a run")
    assert (tmp_path / "run.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="no epoch to draw"):
        training.draw([], tmp_path / "none.png")


def test_tensorboard_gets_scalars_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard")
    monitor = training.Monitor(tmp_path)
    monitor.console.quiet = True
    monitor.log({"epoch": 1, "phase": "dense", "score": 0.5, "widths": {"a": 4}})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"]
    assert found == ["score", "widths/a"]


def test_examples_are_learned(tmp_path):
    run = trainer(tmp_path, dense_epochs=3, dense_rate=0.1)
    run.fit(3)
    assert run.score() > 0.8
    assert len(examples()) == 64
