"""The training script: batches as a pure function of the seed, and a resumed run that ends with the same weights."""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")


@pytest.fixture
def images():
    from data import Images

    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 32, 32, 3), generator=random, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (48,), generator=random))


def test_each_training_image_is_a_shifted_or_mirrored_window_of_its_original(images):
    from data import as_input, training_batches

    batches = list(training_batches(images, 16, seed=3))
    again = list(training_batches(images, 16, seed=3))
    for (x, labels), (same_x, same_labels) in zip(batches, again, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(labels, same_labels)
    assert not torch.equal(batches[0][0], next(training_batches(images, 16, seed=4))[0])

    padded = torch.nn.functional.pad(as_input(images.pixels), (4, 4, 4, 4))
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5)
    x, labels = batches[0]
    origins, mirrored = [], 0
    for image, label in zip(x, labels, strict=True):
        plain = (windows == image).all(dim=(3, 4, 5)).nonzero()
        flipped = (windows == image.flip(-1)).all(dim=(3, 4, 5)).nonzero()
        assert len(plain) + len(flipped) == 1
        mirrored += len(flipped)
        origin = int((plain if len(plain) else flipped)[0, 0])
        assert images.labels[origin] == label
        origins.append(origin)
    assert len(set(origins)) == 16
    assert 0 < mirrored < 16


def test_the_plan_closes_gates_at_the_end_of_each_search_step():
    from train import Settings, plan

    settings = Settings(search="relax", dense_epochs=2, search_epochs=3, thresholds=(0.02, 0.1), finetune_epochs=1)
    epochs = plan(settings)
    assert [e.phase for e in epochs] == ["dense"] * 2 + ["search"] * 6 + ["finetune"]
    assert [e.close for e in epochs] == [None] * 4 + [0.02, None, None, 0.1, None]
    for before, after in itertools.pairwise(epochs):
        assert after.begin == (before.end if before.phase == after.phase else 0)


def test_importance_closes_in_equal_parts_down_to_the_target():
    from train import Settings, plan

    closing = [e.close for e in plan(Settings(steps=4, search_epochs=2, target=0.6)) if e.close is not None]
    assert closing == pytest.approx([0.9, 0.8, 0.7, 0.6])


@pytest.mark.parametrize("search", ["importance", "relax"])
def test_a_resumed_run_ends_with_the_same_weights(search, images, tmp_path):
    from rich.console import Console
    from train import Settings, train

    settings = Settings(
        depth=8,
        search=search,
        steps=2,
        thresholds=(0.02, 0.9),
        dense_epochs=1,
        finetune_epochs=1,
        batch=16,
        gate_rate=0.2,
        ejector_weight=0.1,
        target=0.2,
    )
    quiet = Console(quiet=True)
    whole = train(settings, images, images, tmp_path / "whole", console=quiet, stop_after=4)
    for stop in (1, 2, 4):
        parts = train(settings, images, images, tmp_path / "parts", resume=True, console=quiet, stop_after=stop)
        assert parts.done == stop
    one, two = whole.network.state_dict(), parts.network.state_dict()
    assert any((value == 0).any() for name, value in one.items() if name.endswith("mask"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
