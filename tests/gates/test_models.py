"""The reference networks: their published sizes, gates on all of them, and data sets in their usual layouts."""

import pickle

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .training_cases import trainer  # noqa: E402

# parameters as published; 1x1 projections have 2 752 more than padded shortcuts, a VGG without biases 4 224 fewer
PARAMETERS = {
    "resnet20": 269_722 + 2_752,
    "resnet56": 853_018 + 2_752,
    "resnet18": 11_173_962,
    "vgg16": 14_728_266 - 4_224,
    "mobilenetv2": 2_236_682,
    "resnet18-imagenet": 11_689_512,
    "resnet50-imagenet": 25_557_032,
    "mobilenetv2-imagenet": 3_504_872,
}
SMALL = ("resnet20", "vgg16", "mobilenetv2", "unet-small")


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_their_published_sizes(name):
    import catalogue

    own = catalogue.DATA_SETS["imagenet" if name.endswith("imagenet") else "cifar10"]
    with torch.device("meta"):
        network = catalogue.NETWORKS[name](own.mean, own.std, own.classes)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_every_layer_but_the_last_has_gates_and_can_be_cut(name):
    import catalogue

    entry = catalogue.entry(name)
    example = torch.zeros(2, 3, 45, 60) if entry.data == "camvid" else entry.data_set.example()
    gated = gates.augment(entry.network(), example).eval()
    without = [w for w, axis in gated.coupling.layers if axis not in gated.coupling.axes.get(w, {})]
    assert without in (["head.weight"], ["head.1.weight"])
    for gate in gated.gate_list:
        gate.mask[::2] = 0
    small = gates.removed(gated, example).eval()
    x = torch.rand(2, *example.shape[1:])
    with torch.no_grad():
        expected = gated(x)
        assert (small(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_every_recipe_can_be_read():
    import catalogue

    for name in catalogue.names():
        entry = catalogue.entry(name)
        assert entry.recipe.network in catalogue.NETWORKS
        assert entry.data in catalogue.DATA_SETS
    with pytest.raises(InputError, match="no recipe 'alexnet'"):
        catalogue.entry("alexnet")


# augmentation


@pytest.fixture
def images():
    from data import Examples

    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 32, 32, 3), generator=random, dtype=torch.uint8)
    return Examples(pixels, torch.randint(0, 10, (48,), generator=random))


def test_each_training_image_is_a_shifted_or_mirrored_window_of_its_original(images):
    from data import Augmentation, InMemory, as_input

    data = InMemory(images, images, Augmentation(shift=4))
    batches, again = list(data.training(16, 3)), list(data.training(16, 3))
    for (x, labels), (same_x, same_labels) in zip(batches, again, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(labels, same_labels)
    assert not torch.equal(batches[0][0], next(data.training(16, 4))[0])

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
        assert images.targets[origin] == label
        origins.append(origin)
    assert len(set(origins)) == 16
    assert 0 < mirrored < 16


def test_the_shares_of_all_processes_are_the_batches_of_one(images):
    from data import Augmentation, InMemory

    data = InMemory(images, images, Augmentation(shift=2, zoom=1.3, light=0.2))
    shares = [list(data.training(16, 5, rank, 2)) for rank in (0, 1)]
    for number, (x, labels) in enumerate(data.training(16, 5)):
        assert torch.equal(x, torch.cat([share[number][0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[number][1] for share in shares]))


def test_pixels_and_their_labels_move_together():
    from data import NO_LABEL, Augmentation, Examples, InMemory

    labels = torch.randint(0, 9, (8, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = (labels[..., None] + 1).expand(8, 20, 30, 3).contiguous()
    data = InMemory(Examples(pixels, labels), Examples(pixels, labels), Augmentation(shift=5, zoom=1.5))
    x, targets = next(data.training(8, 0))
    numbers = (x[:, 0] * 255).round().long() - 1
    assert torch.equal(torch.where(numbers < 0, NO_LABEL, numbers), targets)
    assert (targets == NO_LABEL).any()


# data sets


def test_cifar10_as_its_author_publishes_it(tmp_path):
    import cifar10

    rng, folder = np.random.default_rng(0), tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels, labels = rng.integers(0, 256, (12, 3, 32, 32), np.uint8), rng.integers(0, 10, 12).tolist()
    for k, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        part = slice(2 * k, 2 * k + 2)
        content = {b"data": pixels[part].reshape(2, -1), b"labels": labels[part], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    train, test = (cifar10.read(tmp_path, split) for split in ("train", "test"))
    assert len(train) == 10
    np.testing.assert_array_equal(train.pixels.numpy(), pixels[:10].transpose(0, 2, 3, 1))
    assert test.targets.tolist() == labels[10:]
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": print}))
    with pytest.raises(InputError, match=r"test_batch: .* is no array"):
        cifar10.read(tmp_path, "test")
    with pytest.raises(InputError, match=r"no CIFAR-10 train images here; unpack"):
        cifar10.read(tmp_path / "nowhere", "train")


def test_files_of_cifar10_that_are_none_are_named(tmp_path):
    import cifar10

    data, labels = np.zeros((4, 3072), np.uint8), [1, 2, 3, 4]
    whole = pickle.dumps({b"data": data, b"labels": labels}, protocol=2)
    for content, message in (
        (b"", "Ran out of input"),
        (whole[:1000], "pickle data was truncated"),
        (b"<html>404</html>", "this is no batch of CIFAR-10"),
        (pickle.dumps({b"data": data}), "it has no labels"),
        (pickle.dumps({b"data": data[:, :100], b"labels": labels}), "cannot reshape"),
        (pickle.dumps({b"data": data, b"labels": labels[:2]}), "it has 4 images and 2 labels"),
        (pickle.dumps({b"data": data, b"labels": [1, 2, 3, 10]}), "its labels are not all 0 to 9"),
    ):
        (tmp_path / "test_batch").write_bytes(content)
        with pytest.raises(InputError, match=f"test_batch: .*{message}"):
            cifar10.read(tmp_path, "test")
    np.savez(tmp_path / "cifar10_test.npz", x=1)
    with pytest.raises(InputError, match=r"cifar10_test\.npz: this is no pack of CIFAR-10"):
        cifar10.read(tmp_path, "test")
    (tmp_path / "cifar10_test.npz").write_bytes(b"PK\x03\x04junk")
    with pytest.raises(InputError, match=r"cifar10_test\.npz: this is no pack of CIFAR-10"):
        cifar10.read(tmp_path, "test")


def test_colours_of_camvid_with_a_palette_and_files_that_are_none(tmp_path):
    import camvid

    numbers = np.kron(np.arange(12).reshape(3, 4), np.ones((120, 120), int))
    colours = np.zeros((*numbers.shape, 3), np.uint8)
    for k, alternatives in enumerate(camvid.COLOURS):
        colours[numbers == k] = alternatives[0]
    image, label = tmp_path / "train" / "a.png", tmp_path / "train_labels" / "a_L.png"
    for path, content in ((image, Image.fromarray(colours)), (label, Image.fromarray(colours).quantize(32))):
        path.parent.mkdir()
        content.save(path)
    found = camvid.read(tmp_path, "train").targets[0].numpy()
    np.testing.assert_array_equal(found, np.where(numbers < 11, numbers, 255)[::2, ::2])
    for path, message in ((label, "a_L.png: this is no image of labels"), (image, "a.png: this is no image:")):
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(InputError, match=message):
            camvid.read(tmp_path, "train")
    (tmp_path / camvid.PACK).write_bytes(b"junk")
    with pytest.raises(InputError, match=r"npz: this is no pack of CamVid"):
        camvid.read(tmp_path, "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_file_that_is_none_is_one_line_from_any_process(workers, tmp_path):
    import files

    folder_of_classes(tmp_path)
    (tmp_path / "val" / "n02" / "1.JPEG").write_bytes(b"nonsense")
    data = files.FromFiles([], files.imagenet(tmp_path, "val"), files.ReadClass(32), workers=workers)
    with pytest.raises(InputError, match=r"^\S*val/n02/1\.JPEG: this is no image: cannot identify .*; get it again$"):
        list(data.checks())


def test_classes_of_imagenet_have_their_numbers_from_train(tmp_path):
    import shutil

    import files

    folder_of_classes(tmp_path)
    shutil.rmtree(tmp_path / "val" / "n01")
    assert {number for _, number in files.imagenet(tmp_path, "val")} == {1}
    (tmp_path / "val" / "n02").rename(tmp_path / "val" / "n03")
    with pytest.raises(InputError, match="val: train has no class n03"):
        files.imagenet(tmp_path, "val")


def test_camvid_with_numbers_with_colours_and_raw(tmp_path):
    import camvid

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (360, 480, 3), np.uint8))
    numbers = np.kron(rng.integers(0, 12, (18, 24)), np.ones((20, 20), int)).astype(np.uint8)
    colours = np.zeros((*numbers.shape, 3), np.uint8)  # black is Void
    for k, alternatives in enumerate(camvid.COLOURS):
        colours[numbers == k] = alternatives[-1]
    numbered, coloured, raw = (tmp_path / name for name in ("numbered", "coloured", "raw"))
    for path, label in (
        (numbered / "train" / "a.png", numbered / "trainannot" / "a.png"),
        (coloured / "train" / "a.png", coloured / "train_labels" / "a_L.png"),
        (raw / "701_StillsRaw_full" / "0006R0_f00930.png", raw / "LabeledApproved_full" / "0006R0_f00930_L.png"),
    ):
        for file, content in ((path, image), (label, Image.fromarray(numbers if "annot" in str(label) else colours))):
            file.parent.mkdir(parents=True, exist_ok=True)
            content.save(file)
    expected = np.where(numbers < 11, numbers, 255)[::2, ::2]
    for folder in (numbered, coloured, raw):
        found = camvid.read(folder, "train")
        assert found.pixels.shape == (1, 180, 240, 3)
        np.testing.assert_array_equal(found.targets[0].numpy(), expected)
    with pytest.raises(InputError, match="no CamVid val images here"):
        camvid.read(numbered, "val")
    (coloured / "train_labels" / "a_L.png").unlink()
    with pytest.raises(InputError, match="has no labels"):
        camvid.read(coloured, "train")


def test_raw_camvid_frames_are_split_as_segnet_does():
    import camvid

    splits = {"0001TP_008520": "train", "0001TP_008550": "test", "0016E5_07959": "val", "0016E5_08640": "train"}
    splits |= {"0006R0_f03930": "train", "Seq05VD_f05100": "test", "other_1": None}
    assert {name: camvid.split_of(name) for name in splits} == splits


@pytest.mark.shared
def test_the_packs_of_this_machine(request):
    import os
    from pathlib import Path

    import camvid
    import cifar10

    folder = Path(os.environ.get("ONNXSHRINK_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    if not (folder / "camvid_240x180.npz").exists():
        pytest.skip("no packs here")
    assert [len(camvid.read(folder, split)) for split in ("train", "val", "test")] == [367, 101, 233]
    assert len(cifar10.read(folder, "test")) == 10_000
    labels = camvid.read(folder, "train").targets
    labelled = (labels < camvid.CLASSES).sum((1, 2))
    counts = torch.stack([(labels == k).sum((1, 2)) for k in range(camvid.CLASSES)])
    frequency = counts.sum(1) / torch.stack([labelled[shown].sum() for shown in counts > 0])
    balanced = frequency.median() / frequency
    mean = (counts.sum(1) * balanced).sum() / labelled.sum()
    torch.testing.assert_close(torch.tensor(camvid.WEIGHTS), balanced / mean, atol=5e-4, rtol=0)


def folder_of_classes(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            for k in range(3):
                path = folder / split / name / f"{k}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (60 + k, 80, 3), np.uint8)).save(path)


def folder_of_scenes(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k in range(4):
            image = folder / "leftImg8bit" / split / "ulm" / f"ulm_{k}_leftImg8bit.png"
            label = folder / "gtFine" / split / "ulm" / f"ulm_{k}_gtFine_labelIds.png"
            for path, shape in ((image, (64, 128, 3)), (label, (64, 128))):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 34, shape, np.uint8)).save(path)


@pytest.mark.parametrize("name", ["imagenet", "cityscapes"])
def test_a_dry_run_on_a_few_generated_files(name, tmp_path):
    """Loader, augmentation, search, collapse and score, with a small network in place of the large one."""
    import catalogue
    import files
    from resnet import cifar_resnet
    from unet import UNet

    from onnxshrink.gates.training import Classification, Segmentation

    if name == "imagenet":
        folder_of_classes(tmp_path)
        read, network, task = (
            files.ReadClass(32),
            cifar_resnet(8, (0.5,) * 3, (0.2,) * 3, 2, (4, 6, 8)),
            Classification(),
        )
        pairs = [files.imagenet(tmp_path, split) for split in ("train", "val")]
        example = torch.zeros(2, 3, 32, 32)
    else:
        folder_of_scenes(tmp_path)
        read, network, task = files.ReadScene(64, 32), UNet((0.5,) * 3, (0.2,) * 3, 19, 4, 3), Segmentation(19)
        pairs = [files.cityscapes(tmp_path, split) for split in ("train", "val")]
        example = torch.zeros(2, 3, 32, 64)
    data = files.FromFiles(*pairs, read, workers=0)
    x, targets = next(data.training(4, 0))
    same = [next(data.training(4, 0, rank, 2)) for rank in (0, 1)]
    assert torch.equal(x, torch.cat([part[0] for part in same]))
    assert torch.equal(targets, torch.cat([part[1] for part in same]))
    assert x.shape[1:] == example.shape[1:]
    assert sum(len(x) for x, _ in data.checks()) == len(pairs[1])
    run = trainer(tmp_path / "out", network=network, data=data, task=task, example=example, batch=2, of=name)
    run.fit()
    assert run.size.kept() <= 0.5
    final = catalogue.read_final(name, tmp_path, batch=3)
    assert (final.split, final.count) == ("validation", len(pairs[1]))
    assert sum(len(x) for x, _ in final.batches()) == final.count
    with pytest.raises(InputError, match="images here"):
        getattr(files, name)(tmp_path / "nowhere", "train")
