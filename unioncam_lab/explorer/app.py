"""The widget: it keeps the view, computes in the background, and sends the parts of the page that have changed.

The page needs no PyTorch to appear. Loading, decoding and the masked passes run in a thread, and between two of its
messages the visitor can cancel. All else is answered at once, in the order in which it comes.
"""

import asyncio
import difflib
import io
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from unioncam_lab.explorer import page
from unioncam_lab.explorer.tabs import Drawing
from unioncam_lab.explorer.view import UPLOAD, View

if TYPE_CHECKING:
    from torch import Tensor

    from unioncam_lab.explorer.explanation import Explanation

HERE = Path(__file__).parent
LATER = 0.02  # seconds without a message, after which the part below the flow is drawn
BAR = 0.1  # seconds between two movements of the bar
COVERED = 0.1  # the share of the pixels that a button of the tab `paint` covers
NETWORKS_KEPT = 2
# What a page may ask for beside another value of the view; the first four need the maps.
NEED_MAPS = {"class", "mask", "mark", "download"}
ACTIONS = NEED_MAPS | {"picture", "classifier", "methods", "opacity", "cancel", "again", "upload", "open"}


class Explorer(anywidget.AnyWidget):
    """The explorer as a widget for JupyterLab and Voilà.

    Args:
        view: what it shows first.
        networks: names for `load_classifier` to choose from.
        network: as `wait_for_visitor` returns it.

    Attributes:
        view: what it shows now.
        explanation: of the present picture; None until there is one.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    source = traitlets.Unicode().tag(sync=True)
    knobs = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    alert = traitlets.Unicode().tag(sync=True)
    tabs = traitlets.Unicode().tag(sync=True)
    stage = traitlets.Unicode().tag(sync=True)
    below = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        view: View | None = None,
        networks: Sequence[str] = tuple(page.NETWORKS),
        network: Future | None = None,
        **options,
    ):
        super().__init__(**options)
        view = view or View()
        self.view, self.explanation = view, None
        self.networks = tuple(dict.fromkeys([*networks, view.classifier]))
        self._own: tuple[str, bytes] | None = None  # name and content of the visitor's file
        self._mask: Tensor | None = None  # what is painted
        self._network, self._loaded = network, {}
        self._pictures: tuple[str, ...] = (view.picture,)
        self._cancelled, self._job, self._later = False, None, None
        self._finished = ""  # the status when nothing is being computed
        self._tasks: set[asyncio.Task] = set()
        self.on_msg(lambda _, content, buffers: self.answer(content, buffers))
        if view.picture == UPLOAD:
            self.alert = "This view is of an uploaded photo, which is not part of it: upload the photo again."
        self.draw()

    def start(self) -> "Explorer":
        """Explain the picture of the view in the background, and return this widget."""
        if self.view.picture == UPLOAD and self._own is None:
            self.view = replace(self.view, picture=View().picture)
        self._cancelled = True
        self._job = self._background(self._explain(self._job))
        return self

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        """Do some work between the visitor's messages."""
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)  # the loop itself does not keep a task alive
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Awaitable[None]):
        """Say in a sentence why something failed; a visitor sees no traceback."""
        try:
            await work
        except Exception as error:
            self.status, self.alert = self._finished, _sentence(error)

    async def _in_thread(self, work: Callable[[], Any], said: str, share: Callable[[], float | None] = lambda: None):
        """Run work in a thread, and move the bar meanwhile."""
        job = asyncio.ensure_future(asyncio.to_thread(work))
        while not job.done():
            self.status = page.working(said, share())
            await asyncio.wait([job], timeout=BAR)
        return job.result()

    async def _explain(self, before: asyncio.Task | None):
        if before is not None:
            await asyncio.wait([before])
        if self._job is not asyncio.current_task():
            return  # the visitor has chosen something else meanwhile
        self._cancelled, view, start = False, self.view, time.monotonic()
        found = await self._in_thread(lambda: self._captured(view), "Loading the network")
        self.explanation, self._mask, self._finished, self.stage, self.below = found, None, "", "", ""
        self.send({"type": "mask"})
        self.draw()
        from unioncam_lab.explorer.explanation import Cancelled

        done = 0.0

        def watch(share: float):
            nonlocal done
            done = share
            if self._cancelled:
                raise Cancelled

        try:
            await self._in_thread(lambda: found.compute(watch), "Scoring the masked pictures:", lambda: done)
        except Cancelled:
            self.status = page.cancelled()
            return
        self.status = self._finished = page.finished(found, time.monotonic() - start)
        self.draw()

    def _captured(self, view: View) -> "Explanation":
        from unioncam_lab.classifiers import load_classifier
        from unioncam_lab.explorer import explanation, uploads

        if self._network:
            network, self._network = self._network, None
            self._loaded |= network.result()
        if view.classifier not in self._loaded:
            found = load_classifier(view.classifier)
            while len(self._loaded) >= NETWORKS_KEPT:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[view.classifier] = found
        classifier = self._loaded[view.classifier]
        self._pictures = explanation.pictures(view.classifier)
        size = classifier.input_size
        own = view.picture == UPLOAD and self._own is not None
        image = uploads.read_upload(*self._own, size) if own else explanation.picture(view.picture, size)
        return explanation.Explanation(classifier, image, own)

    def answer(self, content: dict[str, Any], buffers: Sequence[memoryview] = ()):
        """Answer one message of the page: the name of a control, its value, and the bytes of a file or mask."""
        if self._later:
            self._later.cancel()
        name, value = content.get("name"), content.get("value")
        try:
            self.alert = ""
            if name in NEED_MAPS and not (self.explanation and self.explanation.ready):
                raise ValueError("The picture is not explained yet: wait until the bar has gone.")
            if name in ACTIONS:
                getattr(self, f"_on_{name}")(value, buffers)
            else:
                self.view = self.view.changed(str(name), value)
            self.draw(at_once=False)
        except Exception as error:
            self.alert = _sentence(error)
        finally:
            self.send({"type": "done"})

    def _on_picture(self, value: str, _buffers):
        self.view = replace(self.view.changed("picture", value), target=-1, channel=-1)
        self.start()

    def _on_classifier(self, value: str, _buffers):
        if value not in self.networks:
            raise ValueError(f"There is no network {value!r} here; there are {', '.join(self.networks)}.")
        shapes = value == "shapes_vgg"
        picture = "shapes 1" if shapes else self.view.picture
        picture = View().picture if not shapes and picture.startswith("shapes") else picture
        self.view = replace(self.view, classifier=value, picture=picture, target=-1, channel=-1)
        self.start()

    def _on_class(self, value: str, _buffers):
        names = self.explanation.classifier.classes if self.explanation else []
        wanted = value.strip().lower()
        exact = [i for i, name in enumerate(names) if name.lower() == wanted]
        inside = [i for i, name in enumerate(names) if wanted and wanted in name.lower()]
        if not exact and len(inside) != 1:
            near = [names[i] for i in inside[:3]] or difflib.get_close_matches(value, names, 3, 0.5)
            more = f" Did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"This network has no class {value!r}.{more}")
        self.view = replace(self.view, target=(exact or inside)[0])

    def _on_methods(self, value: str, _buffers):
        chosen = set(self.view.methods) ^ {value}
        self.view = self.view.changed("methods", tuple(name for name in page.TITLES if name in chosen))

    def _on_opacity(self, value: str, _buffers):
        self.view = self.view.changed("opacity", float(value) / 100)

    def _on_cancel(self, _value, _buffers):
        self._cancelled = True

    def _on_again(self, _value, _buffers):
        self.start()

    def _on_upload(self, value: str, buffers):
        (content,) = buffers
        self._background(self._uploaded(value, bytes(content)))

    async def _uploaded(self, name: str, content: bytes):
        def check():
            from unioncam_lab.explorer.uploads import read_upload

            read_upload(name, content, 32)

        await self._in_thread(check, f"Reading {name}")
        self._own = name, content
        self.view = replace(self.view, picture=UPLOAD, target=-1, channel=-1)
        self.start()

    def _on_open(self, value: str, buffers):
        (content,) = buffers
        opened = View.from_json(bytes(content).decode("utf-8", "replace"))
        if opened.classifier not in self.networks:
            raise ValueError(f"This view is of the network {opened.classifier!r}, which is not offered here.")
        if opened.picture == UPLOAD and self._own is None:
            self.alert = f"{value} is a view of an uploaded photo, which is not part of it: upload the photo again."
        self.view = opened
        self.start()

    def _on_mask(self, _value, buffers):
        side = self.explanation.image.shape[1]
        self._mask = _unpacked(bytes(buffers[0]), side)

    def _on_mark(self, value: str, _buffers):
        view, found = self.view, self.explanation
        target = page.target_of(view, found)
        cam = found.cam(view.judged, target, view.theta, view.reading)
        if value == "random":
            cam = cam.new_tensor(np.random.default_rng().random(tuple(cam.shape)))
        self._mask = found.most_salient(cam, 0 if value == "nothing" else COVERED, least=value == "least")
        self.send({"type": "mask"}, [np.packbits(self._mask.cpu().numpy()).tobytes()])

    def _on_download(self, value: str, _buffers):
        what, _, kind = value.partition(".")
        if kind == "json":
            self._save("explorer.json", "application/json", self.view.to_json().encode())
        elif kind in ("png", "svg") and what in page.FIGURES:
            self._background(self._save_figure(what, kind))
        else:
            raise ValueError(f"There is no download {value!r}.")

    async def _save_figure(self, what: str, kind: str):
        view, found = self.view, self.explanation
        content = await self._in_thread(lambda: figure(view, found, what, kind), "Drawing the figure")
        self.status = self._finished
        mime = "image/png" if kind == "png" else "image/svg+xml"
        self._save(f"{view.steps if what == 'steps' else what}_{view.picture.replace(' ', '_')}.{kind}", mime, content)

    def _save(self, name: str, mime: str, content: bytes):
        self.send({"type": "download", "name": name, "mime": mime}, [content])

    def draw(self, at_once: bool = True):
        """Send the parts that have changed: first what the visitor looks at, then what is below it."""
        view, found = self.view, self.explanation
        with self.hold_sync():
            self.source = page.source(view, self._shown_pictures(), self.networks, found)
            self.knobs, self.tabs = page.knobs(view), page.tablist(view)
            if found is None or not found.ready:
                self.stage = self.below = ""
                return
            drawing = Drawing(view, found)
            if view.tab == "explain":
                self.stage = drawing.explain()
            else:
                self.below = ""
                self.stage = self._tested(drawing)
        if view.tab == "explain":
            if at_once:
                self.below = drawing.below()
            else:
                self._later = asyncio.get_running_loop().call_later(LATER, self._draw_below)

    def _shown_pictures(self) -> tuple[str, ...]:
        return (
            self._pictures if self.view.picture in (*self._pictures, UPLOAD) else (self.view.picture, *self._pictures)
        )

    def _draw_below(self):
        if self.explanation and self.explanation.ready and self.view.tab == "explain":
            self.below = Drawing(self.view, self.explanation).below()

    def _tested(self, drawing: Drawing) -> str:
        """The tab `paint`, or `metrics`, whose curves are computed first."""
        view, found = self.view, self.explanation
        if view.tab == "paint":
            if self._mask is None:
                self._mask = found.most_salient(found.image[0], 0)
            return drawing.paint(self._mask, found.after(self._mask, view.cover))
        options = view.judged, drawing.target, view.theta, view.reading
        if not found.has_curves(*options):
            self._background(self._measure(options))
            return ""
        return drawing.metrics(found.curves(*options))

    async def _measure(self, options: tuple):
        found = self.explanation
        await self._in_thread(lambda: found.curves(*options), "Scoring the pictures of both curves")
        self.status = self._finished
        self.draw()


def wait_for_visitor(view: View) -> Future | None:
    """Return when somebody asks Voilà for the page. Its environment variables then tell for which one.

    Voilà starts a kernel before that. It loads the view's network meanwhile, so that its visitor need not wait.

    Returns:
        The network that is being loaded: name -> classifier; None if Voilà has started this kernel for a visitor.
    """
    from voila.utils import wait_for_request

    network = ThreadPoolExecutor(1).submit(_loaded, view) if os.environ["VOILA_PREHEAT"] == "True" else None
    wait_for_request()
    return network


def _loaded(view: View) -> dict[str, Any]:
    """Load the view's network and explain the view's picture, for which the network is compiled: name -> classifier."""
    from unioncam_lab.classifiers import load_classifier
    from unioncam_lab.explorer import explanation

    classifier = load_classifier(view.classifier)
    explanation.Explanation(classifier, explanation.picture(view.picture, classifier.input_size)).compute()
    return {view.classifier: classifier}


def _sentence(error: Exception) -> str:
    """Return what a visitor is told: our own errors are sentences, and of others the kind is named."""
    if isinstance(error, ValueError | TypeError | RuntimeError):
        return str(error)
    return f"This did not work ({type(error).__name__}: {error}). Choose another picture."


def _unpacked(bits: bytes, side: int) -> "Tensor":
    """Return the mask (side, side) bool of packed bits."""
    import torch

    values = np.unpackbits(np.frombuffer(bits, np.uint8))
    if not side * side <= len(values) < side * side + 8:
        raise ValueError(f"The mask has {len(values)} pixels; the picture has {side}×{side}.")
    return torch.from_numpy(values[: side * side].reshape(side, side).astype(bool))


def figure(view: View, found: "Explanation", what: str, kind: str) -> bytes:
    """Draw the steps, or the methods side by side, as the notebooks do, and return a PNG or SVG file."""
    from unioncam_lab import figures

    target = page.target_of(view, found)
    evidence = found.evidence(target, view.reading)
    with figures.styled():
        if what == "comparison":
            cams = {name: found.cam(name, target, view.theta, view.reading) for name in view.methods}
            drawn = figures.comparison({view.picture: (evidence, cams)}, found.classifier.classes)
        elif view.steps == "fusion_cam":
            drawn = figures.fusion_steps(evidence, found.fusion(target, view.theta))
        else:
            drawn = figures.selection(evidence, found.union(target, view.theta, view.reading))
        file = io.BytesIO()
        drawn.savefig(file, format=kind, dpi=150)
        import matplotlib.pyplot as plt

        plt.close(drawn)
    return file.getvalue()
