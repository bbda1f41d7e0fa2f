"""Tests of the cache: it gives back what was computed, bit for bit, and nothing that something else computed."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TinyClassifier
from torch import nn

from unioncam_core import Protocol, capture, union_cam
from unioncam_lab import cache, engine, metrics
from unioncam_lab.engine import accelerate
from unioncam_lab.experiment import Setup, run
from unioncam_lab.metrics import evaluate
from unioncam_lab.shapes import CLASSES

NAME = "a" * 64
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of a cache that keeps the logits of every masked pass, however short."""
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "WORTH_KEEPING", 0)
    return tmp_path / "cache"


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_what_is_saved_is_loaded(kept):
    assert cache.load(NAME) is None
    cache.save(NAME, b"result")
    assert cache.load(NAME) == b"result"
    assert cache.load("b" * 64) is None


@pytest.mark.parametrize("chosen", ["off", None, ""])
def test_one_switch_turns_it_off(tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "of the user"))
    monkeypatch.delenv("UNIONCAM_CACHE") if chosen is None else monkeypatch.setenv("UNIONCAM_CACHE", chosen)
    cache.save(NAME, b"result")
    assert (cache.load(NAME) is None) == (chosen == "off")
    assert (tmp_path / "of the user").exists() == (chosen != "off")


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:10], lambda c: b"", lambda c: c[:40] + b"?" + c[41:]]
)
def test_a_damaged_result_is_not_loaded(kept, damage):
    cache.save(NAME, bytes(100))
    (path,) = kept.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(NAME) is None


def test_what_was_not_used_for_longest_is_deleted_first(kept, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 450)
    for i, name in enumerate("abc"):
        cache.save(name, bytes(100))
        os.utime(kept / f"{name}{cache.KEPT}", (i, i))
    assert cache.load("a")
    (kept / "thesis.pdf").write_bytes(bytes(1000))
    cache.save("d", bytes(100))
    assert files(kept) == {"a.unioncam", "c.unioncam", "d.unioncam", "thesis.pdf"}


def test_a_result_that_would_replace_most_others_is_not_kept(kept, monkeypatch):
    cache.save("a", b"result")
    monkeypatch.setattr(cache, "LARGEST", 99)
    cache.save("b", bytes(100))
    assert files(kept) == {"a.unioncam"}


def write(rounds):
    """Load and save results in turn, so many that old ones are deleted all the time."""
    cache.LIMIT, cache.LARGEST = 30_000, 10_000
    for i in range(rounds):
        name = str(i % 7)
        assert cache.load(name) in (None, name.encode() * 9000)
        cache.save(name, name.encode() * 9000)


def writer(rounds):
    process = multiprocessing.get_context("fork").Process(target=write, args=[rounds])
    process.start()
    return process


@pytest.mark.slow
@needs_fork
def test_programs_that_write_at_once_read_only_whole_results(kept):
    programs = [writer(200) for _ in range(3)]
    for program in programs:
        program.join()
    assert [program.exitcode for program in programs] == [0, 0, 0]
    assert not [name for name in files(kept) if name.endswith(cache.PARTIAL)]
    assert 0 < sum(path.stat().st_size for path in kept.iterdir()) <= 30_000 + 2 * 9032


@pytest.mark.slow
@needs_fork
def test_a_program_that_is_killed_leaves_no_partial_result(kept, monkeypatch):
    for _ in range(10):
        program = writer(10**9)
        time.sleep(0.1)
        program.kill()
        program.join()
    found = [cache.load(str(i)) for i in range(7)]
    assert any(found)
    assert all(content in (None, str(i).encode() * 9000) for i, content in enumerate(found))
    (kept / f"tmp{cache.PARTIAL}").touch()
    monkeypatch.setattr(cache, "ABANDONED", -1)
    cache.save(NAME, b"result")
    assert not [name for name in files(kept) if name.endswith(cache.PARTIAL)]


def test_without_a_folder_to_write_to_it_warns_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path / "file" / "cache"))
    cache.save(NAME, b"result")
    cache.save(NAME, b"result")
    assert cache.load(NAME) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"Nothing is kept in the cache {tmp_path / 'file' / 'cache'}: Not a directory."
    ]


def test_a_full_disk_leaves_nothing_behind(kept, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.save(NAME, b"result")
    assert files(kept) == set()


@given(
    st.lists(st.one_of(st.text(), st.integers(), st.floats(), st.tuples(st.text(), st.text())), max_size=4), st.data()
)
def test_other_parts_have_another_key(parts, data):
    other = data.draw(st.permutations(parts))
    assert (cache.key(*parts) == cache.key(*other)) == (repr(parts) == repr(other))
    assert cache.key(*parts) != cache.key(*parts, "")
    assert cache.key(*parts) != cache.key(parts)


def test_a_key_holds_a_tensors_type_shape_and_content():
    tensor = torch.arange(6.0)
    others = [
        tensor.double(),
        tensor.reshape(2, 3),
        -tensor,
        tensor[:5],
        tensor.tolist(),
        tensor.int().view(torch.float32),
    ]
    assert len({cache.key(each) for each in (tensor, *others)}) == 7
    assert cache.key(tensor) == cache.key(torch.stack([tensor, tensor], 1)[:, 1])


class Scaled(TinyClassifier):
    """A network with all that a change can touch: weights, a buffer, and an attribute of Python."""

    classes = CLASSES[:5]
    temperature, unioncam_pixels = 1.0, (-torch.inf, torch.inf, torch.full((3, 1, 1), 0.4))

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(3, 1, 1), persistent=False)

    def forward(self, images):
        return super().forward(images + self.shift) / self.temperature


def explained(model, image, layer="relu2", protocol=Protocol(), **options):
    """The map of an image, and how many masked images a new engine for the model computed for it."""
    accelerate(model, **({"backend": "openvino", "threads": 1, "chunk": 4} | options))
    model.gradient_free._masked_passes = counted = Counted(model.gradient_free._masked_passes)
    (evidence,) = capture(model, image, target_layer=layer, protocol=protocol)
    return union_cam(evidence).cam, evidence.region_output, counted.images


class Counted:
    def __init__(self, function):
        self.function, self.images = function, 0

    def __call__(self, images, distinct):
        self.images += sum(map(len, distinct))
        return self.function(images, distinct)


@pytest.fixture
def image():
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def test_a_second_explanation_computes_nothing_and_has_the_same_bits(kept, image, monkeypatch):
    cold, logits, computed = explained(Scaled(), image)
    assert computed > 1
    warm, again, recomputed = explained(Scaled(), image)
    assert recomputed == 0
    monkeypatch.setenv("UNIONCAM_CACHE", "off")
    without, plain, computed_again = explained(Scaled(), image)
    assert computed_again == computed
    assert torch.equal(cold, warm)
    assert torch.equal(cold, without)
    assert torch.equal(logits, again)
    assert torch.equal(logits, plain)


def test_a_compiled_backend_and_its_chunk_are_kept(kept, image, monkeypatch):
    first, *_ = explained(Scaled(), image, chunk=None)
    monkeypatch.setattr(engine.backends, "_openvino_model", None)
    monkeypatch.setattr(engine, "_fastest_chunk", None)
    model = Scaled()
    second, *_ = explained(model, image, chunk=None)
    assert torch.equal(first, second)
    assert model.gradient_free.backend_for(image).name == "openvino"


@torch.no_grad()
def _change(name, model):
    {
        "one weight": lambda: model.conv1.weight[0, 0, 0, 0].mul_(1 + 1e-6),
        "one weight that no logit shows": lambda: torch.nextafter(
            model.conv2.bias, torch.ones(1), out=model.conv2.bias
        ),
        "a buffer": lambda: model.shift.add_(0.1),
        "an attribute": lambda: setattr(model, "temperature", 2.0),
        "a layer": lambda: setattr(model, "relu1", nn.ReLU6()),
    }[name]()


@pytest.mark.parametrize(
    "name", ["one weight", "one weight that no logit shows", "a buffer", "an attribute", "a layer"]
)
def test_another_model_is_computed(kept, image, monkeypatch, name):
    *_, computed = explained(Scaled(), image)
    model = Scaled()
    _change(name, model)
    found, logits, recomputed = explained(model, image)
    assert recomputed == computed
    monkeypatch.setenv("UNIONCAM_CACHE", "off")
    expected, plain, _ = explained(model, image)
    assert torch.equal(found, expected)
    assert torch.equal(logits, plain)


OTHERS = {
    "layer": {"layer": "relu1"},
    "scale": {"protocol": Protocol(map_scale="none")},
    "background": {"protocol": Protocol(mask_space="normalized")},
    "backend": {"backend": "eager"},
    "precision": {"backend": "eager", "precision": "bf16"},
    "threads": {"threads": 2},
    "chunk": {"chunk": 5},
}


@pytest.mark.parametrize("name", [*OTHERS, "pixel", "code", "package"])
def test_everything_else_that_the_logits_depend_on_is_in_the_key(kept, image, monkeypatch, name):
    explained(Scaled(), image)
    options = OTHERS.get(name, {})
    if name == "pixel":
        image = image.clone()
        image[0, 0, 0, 0] += 1e-7
    elif name == "code":
        monkeypatch.setattr(engine, "_surroundings", lambda: ("another code",))
    elif name == "package":
        monkeypatch.setattr(engine, "installed_version", lambda name: "another version")
        engine._surroundings.cache_clear()
    try:
        found, _, recomputed = explained(Scaled(), image, **options)
        assert recomputed > 0
        assert explained(Scaled(), image, **options)[2] == 0
    finally:
        monkeypatch.undo()
        engine._surroundings.cache_clear()
    monkeypatch.setenv("UNIONCAM_CACHE", "off")
    assert torch.equal(found, explained(Scaled(), image, **options)[0])


def test_what_does_not_change_the_masked_passes_shares_them(kept, image):
    explained(Scaled(), image)
    for protocol in (Protocol(region_weights="softmax"), Protocol(relu=False), Protocol(class_score="logit")):
        assert explained(Scaled(), image, protocol=protocol)[2] == 0


def test_short_passes_are_not_kept(kept, image, monkeypatch):
    monkeypatch.setattr(engine, "WORTH_KEEPING", 10)
    assert explained(Scaled(), image)[2] == explained(Scaled(), image)[2] > 0


def test_a_chunk_that_is_given_and_one_that_was_measured_share_the_passes(kept, image):
    model = Scaled()
    explained(model, image, chunk=None)
    assert explained(Scaled(), image, chunk=model.gradient_free.backend_for(image).chunk)[2] == 0


def test_the_seconds_of_a_run_count_what_was_read_from_the_cache_as_computed(kept, monkeypatch):
    def seconds():
        monkeypatch.setattr(engine, "_fastest_chunk", lambda *_: (4, 100.0))
        setup = Setup("shapes", accelerate(Scaled(), "eager"), ["grad_cam", "union_cam"], ["drop"], limit=1)
        return run(setup).records.set_index("method")["seconds"]

    masked_passes, computed = engine.Engine._masked_passes, []

    def slow(self, images, distinct):
        computed.append(len(images))
        time.sleep(1)
        return masked_passes(self, images, distinct)

    monkeypatch.setattr(engine.Engine, "_masked_passes", slow)
    for found in (seconds(), seconds()):
        assert found["union_cam"] >= 1 > found["grad_cam"]
    assert computed == [1]


def measured(image, cams, **options):
    """The metrics of maps by a new engine, and how many images it computed for them."""
    model = accelerate(Scaled(), "openvino", threads=1, chunk=4)
    (evidence,) = capture(model, image, target_layer="relu2", targets=[0])
    stream, computed = model.gradient_free.stream, []
    model.gradient_free.stream = lambda make, count: (computed.append(count), stream(make, count))[1]
    return evaluate(evidence, cams, **options), sum(computed)


def test_the_images_of_a_curve_are_computed_once(kept, image, monkeypatch):
    cams = list(torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(4)))
    cold, computed = measured(image, cams[:2], step=12)
    warm, again = measured(image, cams[:2], step=12)
    assert warm == cold
    assert computed == again + 2 * 2 * 11, "two maps, two curves of 11 images between the ends"
    (*known, new), some = measured(image, cams, step=12)
    assert known == cold
    assert some == again + 1 + 2 * 11, "of the third map: the image masked by it, and its curves"
    monkeypatch.setenv("UNIONCAM_CACHE", "off")
    assert measured(image, cams, step=12)[0] == [*cold, new]


@pytest.mark.parametrize("change", ["step", "map", "pixel", "metric's code"])
def test_a_curve_of_other_images_is_computed(kept, image, monkeypatch, change):
    cam, step = torch.rand(12, 12, generator=torch.Generator().manual_seed(4)), 12
    _, computed = measured(image, [cam], step=step)
    if change == "step":
        step = 16
    elif change == "map":
        cam = cam.flip(0)
    elif change == "pixel":
        image = image.clone()
        image[0, 0, 0, 0] += 1e-6
    else:
        monkeypatch.setattr(metrics.inspect, "getsource", lambda _: "another code")
    found, again = measured(image, [cam], step=step)
    assert again == computed - (2 * 3 if change == "step" else 0)
    monkeypatch.setenv("UNIONCAM_CACHE", "off")
    assert measured(image, [cam], step=step)[0] == found
