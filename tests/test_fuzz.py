"""Damaged command lines and files: a command ends well or with status 2 and a message.

Annotations of data sets are damaged in `tests/input_pipeline/test_fuzz.py`, from which the ways to
change a text come. A try is drawn from its number alone; a failed test names those that went wrong.
"""

import collections
import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

import grnet_jax.config
from benchmarks.reproduce import __main__ as reproduce
from grnet_jax import compare
from grnet_jax.backbones import convert
from grnet_jax.backbones.pretrained.weights import Weights, read_weights, write_weights
from grnet_jax.catalog import searching
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.evaluation.recognition import RecognitionEvaluator
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from grnet_jax.evaluation.retrieval_metrics import TOP_K
from grnet_jax.export import __main__ as export
from grnet_jax.predict import __main__ as predict
from grnet_jax.search import __main__ as search
from grnet_jax.sharding import make_mesh
from grnet_jax.training import checkpoints, loop
from grnet_jax.training.build import build_run
from grnet_jax.training.label_names import write_label_names
from grnet_jax.visualization import __main__ as visualization
from grnet_jax.visualization import plots
from input_pipeline import DatasetConfig, PrepareOptions, load_dataset, load_image, prepare
from input_pipeline.datasets import synthetic
from input_pipeline.images import inspect_image
from input_pipeline.transforms import read_detections, read_keypoints
from tests.catalog import shops
from tests.input_pipeline import coco_trees
from tests.input_pipeline.conftest import photo_bytes, write_manifest
from tests.input_pipeline.test_fuzz import CELLS, HEADER, change_value, change_word, move_line
from tests.scripts import run_script
from tests.small import small_config

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).parents[1]
_SECONDS = 120  # of a try
_LINES = 40  # of a message: argparse's usage, or a problem for each field
_WORDS = [  # not "--", of which Python 3.11's argparse makes an empty list
    *("", " ", "1e3", "1e999", "-0.0", "nan", "-inf", "9" * 5000, "0x10", "1_0", "1,2", "(1, 2)"),
    *("[", "[1,", "{'a': 1}", "'", '"', "\\", "True", "None", "a" * 5000, "é\u0301\u200b", "١"),
    *("\udcff", "a\nb", "%s{0}$HOME", "-x", "@", "train", "test", "train+test", "all"),
    *("../..", "global", "sgd", "float16", ".", "~nobody"),
]
_METRICS = {f"top{k}": 0.25 for k in TOP_K}
_GROUP = {"queries": 4, **_METRICS, "intervals_95": {name: [0.1, 0.5] for name in _METRICS}}
_RESULTS = {"breakdowns": {"view": {"front": _GROUP, "side": _GROUP}}}
_RECOGNITION = {"attributes": {name: {"photos": 3, "recall5": 0.5} for name in ("long", "short")}}


class _Stopped(BaseException):
    """A try took too long."""


class _Fuzz:
    """Runs the tries of a kind in a temporary folder, and then reports all that went wrong.

    Attributes:
      folder: the temporary one, and the current one.
      places: paths of every kind.
      shown: what a report shows of the try.
    """

    def __init__(self, folder, monkeypatch):
        self.folder, self.shown, self._monkeypatch = folder, "", monkeypatch
        self.photo = str(folder / "places" / "photo.jpg")
        self.places = _make_places(folder / "places")
        monkeypatch.chdir(folder)

    def __call__(self, count, attempt):
        faults = collections.defaultdict(list)
        for number in range(count):
            try:
                with _time_limit(), warnings.catch_warnings(action="ignore"):
                    attempt(random.Random(number))
            except (Exception, _Stopped) as error:
                frames = traceback.extract_tb(error.__traceback__)
                ours = [frame for frame in frames if frame.filename.startswith(str(_ROOT))][-1]
                key = f"{type(error).__name__} at {ours.filename}:{ours.lineno}"
                faults[key].append(f"try {number}: {error}\n    {self.shown!s:.2000}")
        assert not faults, "\n".join(
            f"{key} x{len(all_)}: {all_[0]}" for key, all_ in faults.items()
        )

    def script(self, name, arguments):
        return run_script(self._monkeypatch, name, arguments)

    def print_config(self, arguments):
        """Runs the command that takes its arguments from the process."""
        self._monkeypatch.setattr("sys.argv", ["config", *arguments])
        return grnet_jax.config.main()


def _make_places(root):
    (root / "folder" / "inside").mkdir(parents=True)
    (root / "file").write_text("text\n")
    (root / "photo.jpg").write_bytes(photo_bytes())
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "folder" / "above").symlink_to("..")
    os.mkfifo(root / "pipe")
    places = [*root.iterdir(), root / "missing", root / "file" / "inside", root / ("x" * 300)]
    schemes = [f"{scheme}://host/path" for scheme in ("https", "file", "s4")]
    return [*map(str, places), *schemes, "/dev/null", "/proc/self/mem", "\udcff.jpg"]


@contextlib.contextmanager
def _time_limit():
    def stop(*_):
        raise _Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fuzz(tmp_path, monkeypatch):
    return _Fuzz(tmp_path, monkeypatch)


def _far_enough(*_, **__):
    raise InputError("far enough")


@pytest.fixture
def stopped(monkeypatch):
    """Commands without their long work: drawing, steps, measuring, exporting, explaining."""
    monkeypatch.setattr(synthetic, "contents", _far_enough)
    monkeypatch.setattr(loop, "start_state", _far_enough)
    monkeypatch.setattr(loop._Loop, "run", lambda _, state: state)
    for evaluator in (RetrievalEvaluator, RecognitionEvaluator):
        monkeypatch.setattr(evaluator, "run", _far_enough)
    monkeypatch.setattr(export, "export_matcher", _far_enough)
    monkeypatch.setattr(visualization, "Explainer", _far_enough)
    monkeypatch.setattr(reproduce, "_run", _far_enough)
    monkeypatch.setattr(search, "load", _far_enough)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """Workdirs of a small GRNet and a small FashionNet as they are before training, by name."""
    folders = {}
    index = load_dataset(DatasetConfig(source="tiny", dir=str(data_dir))).split("train").index
    for system in ("grnet", "fashionnet"):
        config = small_config(system, **{"dataset.source": "tiny", "dataset.dir": str(data_dir)})
        if "num_attributes" in config.model:
            config.model.num_attributes = len(index.attributes)
        parsed = parse_config(config)
        folders[system] = tmp_path_factory.mktemp("runs") / system
        checkpoints.write_config(epath.Path(folders[system]), parsed, "")
        write_label_names(epath.Path(folders[system]), index)
        with checkpoints.Checkpoints(epath.Path(folders[system])) as saved:
            saved.save(build_run(parsed, make_mesh()).create_state(), {"top1": 0.5})
    return folders


def _run(main, *arguments):
    """Runs a command's `main`; raises AssertionError for an end that a user would complain of."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(*arguments)
        except SystemExit as end:
            status = end.code
        out.flush()
        err.flush()
    said, printed = err.buffer.getvalue().decode(), out.buffer.getvalue().decode()
    assert status in (None, 0, 2), f"status {status}: {said}"
    assert "Traceback" not in said
    if status == 2:
        assert "error: " in said or "bad rows, " in printed
        assert len(said.split("error: ")[-1].splitlines()) <= _LINES, said
    return status


def _call(function, *arguments):
    """Returns what a function gives, None where it raises InputError."""
    with contextlib.suppress(InputError), contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def _damage_line(line, names, rng, places):
    """Flags are set, added, cut, repeated or dropped: one to three changes."""
    line = list(line)
    for _ in range(rng.choice([1, 1, 2, 3])):
        word = rng.choice([*_WORDS, *places])
        if rng.random() < 0.5:
            word = str(
                rng.choice([rng.randint(-1, 9), 2 ** rng.randint(5, 99), rng.uniform(-1, 2)])
            )
        place, what = rng.randrange(len(line) + 1), rng.randrange(8)
        if what < 4 or place == len(line):
            line.insert(place, f"--{rng.choice(names)}={word}")
        elif what == 4:
            line[place] = line[place].partition("=")[0] + rng.choice([f"={word}", "", "="])
        elif what == 5:
            line.append(rng.choice([line[place], word, f"--{word}", f"--config.{word}"]))
        elif what == 6:
            del line[place]
        else:
            cut = rng.randint(0, len(line[place]))
            line[place] = line[place][:cut] + rng.choice(["", "x", ".", "="]) + line[place][cut:]
    return line


def _damage_bytes(data, rng):
    """Bytes are changed, dropped, repeated or replaced; in the header more often."""
    place, length = rng.randint(0, len(data)), rng.choice([1, 2, 8, 100])
    if rng.random() < 0.3:
        place = rng.randint(0, min(len(data), 64))
    new = [b"", rng.randbytes(length), b"\xff" * 4, b"\0" * 4, b"{" * 99]
    whole = [data[:place], data[:place], b"", data * 2, rng.randbytes(100), b"\0" * 100, data[::-1]]
    changed = data[:place] + rng.choice(new) + data[place + length :]
    return rng.choice([changed, rng.choice(whole)])


def _damage_json(data, rng):
    return rng.choice([change_value, change_value, change_word, move_line, _damage_bytes])(
        data, rng
    )


def _damage_csv(data, rng):
    return rng.choice([change_word, change_word, move_line, _damage_bytes])(data, rng)


def _damage_files(originals, rng, paths=None):
    """Writes all files, and one of them damaged; returns its path, what it lost or holds."""
    for path, data in originals.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    path = rng.choice(paths or sorted(originals))
    damage = _damage_json if path.suffix == ".json" else _damage_bytes
    data = rng.choice([damage(originals[path], rng)] * 4 + [rng.choice(list(originals.values()))])
    path.write_bytes(data)
    if rng.random() < 0.1:
        path.unlink()
    return path, data


def _read_files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _field_names(config, prefix="config."):
    for name, value in config.items():
        inner = hasattr(value, "items")
        yield from _field_names(value, f"{prefix}{name}.") if inner else [prefix + name]


def test_flags_of_train(fuzz, runs, data_dir, stopped):
    names = [*_field_names(small_config()), "workdir", "config", "help"]
    line = [
        *(f"--config={_ROOT}/configs/grnet.py", "--config.dataset.source=tiny"),
        *(f"--config.dataset.dir={data_dir}", "--config.image.size=32"),
        f"--workdir={fuzz.folder}/run",
    ]

    def attempt(rng):
        shutil.rmtree(fuzz.folder / "run", ignore_errors=True)
        fuzz.shown = _damage_line(line, names, rng, fuzz.places)
        _run(fuzz.script, "train", fuzz.shown)

    fuzz(100, attempt)


@pytest.mark.parametrize(("count", "prefix"), [(100, ""), (30, "config.eval.")])
def test_flags_of_eval(fuzz, runs, count, prefix, request):
    """All of them up to the measuring, those of measuring through to its end."""
    if not prefix:
        request.getfixturevalue("stopped")
    fields = [name for name in _field_names(small_config()) if name.startswith(prefix or "config.")]
    names = fields if prefix else [*fields, "workdir", "config", "output"]

    def attempt(rng):
        run = runs["grnet"] if prefix else rng.choice(list(runs.values()))
        line = [f"--workdir={run}", f"--output={fuzz.folder}/out"]
        fuzz.shown = _damage_line(line, names, rng, fuzz.places)
        _run(fuzz.script, "eval", fuzz.shown)

    fuzz(count, attempt)


def test_flags_of_prepare(fuzz, stopped):
    source = write_manifest(fuzz.folder / "photos", CELLS, HEADER)
    names = ["dataset", "check", "dir", "source", *PrepareOptions.model_fields]

    def attempt(rng):
        line = ["--dataset=manifest", f"--source={source}", f"--dir={fuzz.folder}/data"]
        line += ["--check"] * (rng.random() < 0.8)
        fuzz.shown = _damage_line(line, names, rng, fuzz.places)
        _run(prepare.main, fuzz.shown)

    fuzz(100, attempt)


def test_flags_of_other_commands(fuzz, runs, stopped):
    grnet, fashionnet = (f"--workdir={runs[name]}" for name in ("grnet", "fashionnet"))
    out, results, photo = f"--output={fuzz.folder}/out", f"--results={fuzz.folder}", fuzz.photo
    explained = "output plots matches split queries seed query gallery photos boxes top data_dir"
    tables = "dataset source weights keypoints rows seeds members runs results list plan print"
    catalog, asking = f"{fuzz.folder}/shop", "box filter top shortlist html"
    indexing = "from split model max_bad memory_gb reread rebuild"
    lines = [
        (predict.main, [photo, fashionnet, out], "output box shop top workdir"),
        (export.main, [grnet, out], "output platforms workdir"),
        (visualization.main, [grnet, out, "--photos", photo, photo], explained),
        (visualization.main, [grnet, out], explained),
        (compare.main, [str(runs["grnet"])] * 2 + [out], "metric subset output top"),
        (convert.main, [photo, out], "backbone preprocessing output entry"),
        (reproduce.main, ["grnet", "table5", "--list", results], tables),
        (reproduce.main, ["fashionnet", "table2", "--list", results], tables),
        (search.main, ["index", catalog, f"--from={fuzz.folder}", "--model=imagenet:x"], indexing),
        (search.main, ["query", catalog, photo, "--filter=price<=3"], asking),
        (search.main, ["info", catalog], "json"),
        (fuzz.print_config, [], "describe help"),
    ]

    def attempt(rng):
        main, line, names = rng.choice(lines)
        fuzz.shown = _damage_line(line, names.split(), rng, fuzz.places)
        _run(main, fuzz.shown)

    fuzz(75, attempt)


def test_bytes_of_annotations(fuzz):
    """What `prepare --check` prints of them; that it is right is tested elsewhere."""
    manifest = write_manifest(fuzz.folder / "photos", CELLS, HEADER)
    coco = Path(coco_trees.write_coco(fuzz.folder / "coco"))
    files = {path: data for path, data in _read_files(coco).items() if path.suffix == ".json"}
    original = manifest.read_bytes()

    def attempt(rng):
        if rng.random() < 0.5:
            fuzz.shown = _damage_csv(original, rng)
            manifest.write_bytes(fuzz.shown)
            _run(prepare.main, ["--dataset=manifest", f"--source={manifest}", "--check"])
        else:
            fuzz.shown = _damage_files(files, rng)
            _run(prepare.main, ["--dataset=coco", f"--source={coco}", "--check"])

    fuzz(75, attempt)


def test_bytes_of_lists(fuzz, data_dir):
    index = load_dataset(DatasetConfig(source="tiny", dir=str(data_dir))).split("train").index
    one, two = index.photo_id[:2]
    texts = {
        read_detections: f"image,x_1,y_1,x_2,y_2,score\n{one},1,2,30,40.5,0.5\n{two},0,0,9,9,1\n",
        read_keypoints: f"image,x_left_hip,y_left_hip,x_right_hip,y_right_hip\n{one},1,2,,\n",
        predict.find_files: f"{fuzz.photo}\n{fuzz.folder}/places/folder\n",
    }
    path = fuzz.folder / "file.csv"

    def attempt(rng):
        read = rng.choice(list(texts))
        fuzz.shown = _damage_csv(texts[read].encode(), rng)
        path.write_bytes(fuzz.shown)
        if read is predict.find_files:
            _call(read, [f"@{path}", rng.choice(fuzz.places)])
            return
        found = _call(read, str(path), index)
        if read is read_detections and found is not None:
            assert (found[:, :2] < found[:, 2:]).all()

    fuzz(100, attempt)


def test_files_of_a_catalog(fuzz, monkeypatch):
    source, catalog = shops.make_shop(fuzz.folder / "photos"), fuzz.folder / "shop"
    shops.index(epath.Path(catalog), source)
    for module in (search, searching):
        monkeypatch.setattr(module, "load", lambda run: shops.small_loaded())
    files = _read_files(catalog)
    lines = [["info"], ["info", "--json"], ["query", fuzz.photo, "--filter=price>=0"], ["index"]]

    def attempt(rng):
        shutil.rmtree(catalog)
        path, _ = _damage_files(files, rng, rng.choice([[catalog / "catalog.json"], None]))
        name, *rest = line = rng.choice(lines)
        fuzz.shown = path, line
        _run(search.main, [name, str(catalog), *rest])

    fuzz(100, attempt)


def test_bytes_of_images(fuzz):
    kinds = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]

    def attempt(rng):
        mode = rng.choice(["RGB", "RGB", "L"])
        data = photo_bytes(rng.randrange(5), mode=mode, kind=rng.choice(kinds))
        for _ in range(rng.choice([1, 1, 2])):
            data = _damage_bytes(data, rng)
        path = fuzz.folder / f"photo.{rng.choice(['jpg', 'png', 'txt'])}"
        path.write_bytes(data)
        fuzz.shown = data
        header, pixels = _call(inspect_image, path), _call(load_image, rng.choice([path, data]))
        assert (header is None) == (pixels is None)
        assert pixels is None or pixels.shape == (header.height, header.width, 3)

    fuzz(125, attempt)


def test_files_of_a_run(fuzz, runs, stopped):
    folder = fuzz.folder / "run"
    shutil.copytree(runs["fashionnet"], folder)
    for name, content in (("results", _RESULTS), ("recognition", _RECOGNITION)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    files = {path: path.read_bytes() for path in folder.glob("*.json")}
    figure = functools.partial(plots._figure, pixels=256)
    fuzz._monkeypatch.setattr(plots, "_figure", figure)

    def attempt(rng):
        path, _ = fuzz.shown = _damage_files(files, rng)
        if path.name == "labels.json":
            _run(predict.main, [fuzz.photo, f"--workdir={folder}"])
        elif path.name != "config.json":
            _run(visualization.main, [f"--workdir={folder}", "--plots"])
        elif rng.random() < 0.5:
            _call(grnet_jax.load, folder)
        else:
            _run(fuzz.script, "eval", [f"--workdir={folder}"])

    fuzz(50, attempt)


def test_files_of_a_checkpoint(fuzz, runs):
    """Bytes that change within an array go unnoticed: orbax keeps no digest of them."""
    folder = fuzz.folder / "run"
    shutil.copytree(runs["grnet"], folder)
    files = _read_files(folder / "checkpoints")

    def attempt(rng):
        fuzz.shown = _damage_files(files, rng)
        _call(grnet_jax.load, folder)

    fuzz(15, attempt)


def test_files_of_an_exported_matcher(fuzz, runs):
    folder = fuzz.folder / "exported"
    assert _run(export.main, [f"--workdir={runs['grnet']}", f"--output={folder}"]) == 0
    files, photos = _read_files(folder), np.zeros((1, 32, 32, 3), np.uint8)
    wanted = grnet_jax.load_exported(folder).embed(photos)["regions"]

    def attempt(rng):
        paths = [*files, *[folder / "matcher.json"] * 4]
        fuzz.shown = _damage_files(files, rng, paths)
        matcher = _call(grnet_jax.load_exported, folder)
        if matcher is not None and rng.random() < 0.3:
            np.testing.assert_array_equal(matcher.embed(photos)["regions"], wanted)

    fuzz(75, attempt)


def test_files_of_weights(fuzz):
    """Of another program, to be converted, and our own."""
    path, files = fuzz.folder / "file.safetensors", []
    tensors = {"conv1.weight": np.ones((2, 3), np.float32), "bn1.num_batches_tracked": np.array(3)}
    safetensors.numpy.save_file(tensors, path)
    files.append(path.read_bytes())
    tree = {"params": {"backbone": {"conv": {"kernel": np.ones((2, 2), np.float32)}}}}
    write_weights(path, Weights("small", "imagenet", tree, "net.pth", "0" * 64, 0))
    files.append(path.read_bytes())

    def attempt(rng):
        data = rng.choice(files)
        if rng.random() < 0.4:
            data = _damage_bytes(data, rng)
        else:
            end = 8 + int.from_bytes(data[:8], "little")
            header = _damage_json(data[8:end], rng)
            data = len(header).to_bytes(8, "little") + header + data[end:]
        fuzz.shown = data
        path.write_bytes(data)
        _run(convert.main, [str(path), *rng.choice([[], ["--backbone=small"], ["--entry=a"]])])
        _call(read_weights, path)

    fuzz(50, attempt)


def test_files_of_a_prepared_data_set(fuzz, data_dir):
    config = DatasetConfig(source="tiny", dir=str(data_dir))
    source = Path(load_dataset(config).directory)
    shutil.copytree(source, fuzz.folder / "data" / source.relative_to(data_dir))
    files = _read_files(fuzz.folder / "data")
    copied = config.model_copy(update={"dir": str(fuzz.folder / "data")})

    def attempt(rng):
        fuzz.shown = _damage_files(files, rng)
        if (opened := _call(load_dataset, copied)) is not None:
            for split in map(opened.split, opened.splits):
                for row in range(0, len(split), 7):
                    _call(split.record, row)

    fuzz(60, attempt)


def test_results_of_benchmarks(fuzz):
    original = _ROOT / "benchmarks" / "results" / "reproduce_fir_synthetic.json"
    files = {fuzz.folder / original.name: original.read_bytes()}

    def attempt(rng):
        fuzz.shown = _damage_files(files, rng)
        _run(reproduce.main, ["fir", "table2", "--list", f"--results={fuzz.folder}"])

    fuzz(30, attempt)


def test_arguments_of_the_python_interface(fuzz, runs):
    matcher = grnet_jax.load(runs["grnet"])
    image, photo = np.zeros((50, 40, 3), np.uint8), photo_bytes()
    photos = [
        *(image, image[:0], image[:, :, 0], image.astype(float), image[None], photo, photo[:50]),
        *(io.BytesIO(photo), "", b"", "a\0b", 3, None, Path("no"), *fuzz.places),
    ]
    edges = [0, 1, 40, 39.5, -1, 1e9, float("nan"), float("inf"), 2**70]
    features = matcher.embed([image, image])

    def attempt(rng):
        given = rng.choices(photos, k=rng.choice([1, 1, 2]))
        box = rng.choice([None, (0, 0, 40, 50), (), (1, 2, 3), rng.choices(edges, k=4)])
        top, place = rng.choice([0, -1, 1, 2, 3, 10**9, 2**70]), rng.choice(fuzz.places)
        fuzz.shown = given, box, top, place
        _call(matcher.embed, rng.choice([given, given, given[0]]), rng.choice([None, [box], []]))
        found = _call(matcher.search, features, features, top)
        assert found is None or found.indices.shape == (2, min(top, 2))
        _call(rng.choice([grnet_jax.load, grnet_jax.load_exported]), place)

    fuzz(75, attempt)
