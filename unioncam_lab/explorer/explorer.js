// Shows the parts that the kernel sends, and sends it what the visitor does. One message is on its way at a time: while
// it is, only the last value of each control waits.

const PARTS = ["status", "source", "knobs", "tabs", "stage", "below"];
const LARGEST = 8e6; // bytes of a file; larger ones would not arrive through the websocket of every server
const PATIENCE = 30000; // milliseconds

/** Change the children of an element into those of some HTML, and leave alone what is equal, focused or kept. */
function morph(element, html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  patch(element, made.content);
}

function patch(old, made) {
  const before = [...old.childNodes];
  const after = [...made.childNodes];
  after.forEach((node, i) => {
    const there = before[i];
    if (!there) old.append(node);
    else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName) there.replaceWith(node);
    else if (node.nodeType !== Node.ELEMENT_NODE) {
      if (there.data !== node.data) there.data = node.data;
    } else if (!there.dataset.keep || there.dataset.painter !== node.dataset.painter) {
      if (there.dataset.painter !== node.dataset.painter) there.replaceWith(node);
      else patchElement(there, node);
    }
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function patchElement(there, node) {
  for (const { name, value } of [...node.attributes]) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  for (const { name } of [...there.attributes]) if (!node.hasAttribute(name)) there.removeAttribute(name);
  patch(there, node);
  const used = document.activeElement === there;
  if (there.type === "radio" || there.type === "checkbox") there.checked = node.hasAttribute("checked");
  else if (there.type === "range" && !used) there.value = node.getAttribute("value");
  else if (there.nodeName === "SELECT") there.value = node.querySelector("[selected]")?.value ?? there.value;
}

function render({ model, el }) {
  el.innerHTML =
    `<div class="unioncam-explorer"><div class="controls"><div data-part="source"></div><div data-part="knobs"></div></div>` +
    `<div role="alert" data-part="alert"></div><div data-part="status" role="status"></div><div data-part="tabs"></div>` +
    `<div role="tabpanel" id="panel"><div data-part="stage"></div><div data-part="below"></div></div></div>`;
  el.classList.add("unioncam-frame"); // the layout follows the width of the notebook, not that of the window
  const root = el.firstElementChild;
  const part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const mask = { side: 0, bits: null };
  let drawMask = () => {};

  const tell = (sentence) => (part.alert.textContent = sentence);
  const show = (name) => {
    if (name === "alert") return tell(model.get("alert"));
    morph(part[name], model.get(name));
    if (name === "tabs") part.stage.parentElement.setAttribute("aria-labelledby", `tab-${root.querySelector('[role="tab"][aria-selected="true"]')?.value}`);
    if (name === "stage") for (const canvas of root.querySelectorAll("canvas[data-painter]")) if (!canvas.dataset.ready) startPainter(canvas);
    root.dataset.shown = Number(root.dataset.shown ?? 0) + 1;
  };
  for (const name of [...PARTS, "alert"]) {
    model.on(`change:${name}`, () => show(name));
    show(name);
  }

  // What is sent.
  const waiting = new Map();
  let timer = null;
  function send(name, value, buffers = [], key = name) {
    if (timer) return void waiting.set(key, [name, value, buffers]);
    timer = setTimeout(() => {
      timer = null;
      tell("The kernel does not answer. It ends some minutes after its last visitor has left: reload the page.");
    }, PATIENCE);
    model.send({ name, value }, undefined, buffers);
  }
  model.on("msg:custom", (message, buffers) => {
    if (message.type === "done") {
      clearTimeout(timer);
      timer = null;
      const [next] = waiting;
      if (next) {
        waiting.delete(next[0]);
        send(...next[1]);
      }
    } else if (message.type === "download") {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(buffers, { type: message.mime }));
      link.download = message.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } else if (message.type === "mask") {
      mask.bits?.fill(0);
      if (buffers?.length && mask.bits) unpack(new Uint8Array(buffers[0].buffer ?? buffers[0], buffers[0].byteOffset ?? 0, buffers[0].byteLength));
      drawMask();
    }
  });

  async function upload(kind, file) {
    if (!file) return;
    if (file.size > LARGEST) {
      tell(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${LARGEST / 1e6} MB are accepted. Make the picture smaller first.`);
      return;
    }
    tell("");
    send(kind === "photo" ? "upload" : "open", file.name, [await file.arrayBuffer()]);
  }

  // What the visitor does.
  root.addEventListener("input", ({ target }) => {
    if (target.type === "range") {
      const output = target.closest("label")?.querySelector("output");
      if (output) output.textContent = target.value + output.dataset.unit;
    }
    if (target.dataset.live) send(target.dataset.name, target.value);
  });
  root.addEventListener("change", ({ target }) => {
    if (target.dataset.upload) {
      upload(target.dataset.upload, target.files[0]).finally(() => (target.value = ""));
    } else if (target.dataset.name && !target.dataset.live && (target.value || target.type !== "search")) {
      send(target.dataset.name, target.value, [], target.type === "checkbox" ? `${target.dataset.name} ${target.value}` : undefined);
    }
  });
  root.addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-name]");
    if (button) send(button.dataset.name, button.value);
  });
  root.addEventListener("keydown", (event) => {
    if (event.target.getAttribute("role") !== "tab") return;
    const tabs = [...root.querySelectorAll('[role="tab"]')];
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = tabs.indexOf(event.target);
    const to = event.key === "Home" ? tabs[0] : event.key === "End" ? tabs.at(-1) : move ? tabs[(at + move + tabs.length) % tabs.length] : null;
    if (!to) return;
    event.preventDefault();
    to.focus();
    send("tab", to.value);
  });
  const over = (event) => {
    event.preventDefault();
    root.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") upload("photo", event.dataTransfer.files[0]);
  };
  for (const type of ["dragover", "dragleave", "drop"]) root.addEventListener(type, over);

  // The brush.
  function unpack(bytes) {
    for (let i = 0; i < mask.bits.length; i++) mask.bits[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  }
  function packed() {
    const bytes = new Uint8Array(Math.ceil(mask.bits.length / 8));
    mask.bits.forEach((bit, i) => bit && (bytes[i >> 3] |= 1 << (7 - (i & 7))));
    return bytes.buffer;
  }
  function startPainter(canvas) {
    const side = Number(canvas.dataset.painter);
    canvas.dataset.ready = "1";
    canvas.width = canvas.height = 2 * side;
    if (mask.side !== side) Object.assign(mask, { side, bits: new Uint8Array(side * side) });
    const context = canvas.getContext("2d");
    const brush = () => root.querySelector("[data-brush]");
    const size = () => (Number(brush().value) / 448) * side; // the brush is measured in pixels of the page
    const cursor = { x: side / 2, y: side / 2, shown: false };
    let fresh = []; // dots that the kernel has not answered yet
    drawMask = () => {
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = "rgba(0, 90, 200, 0.45)";
      for (const [x, y, radius] of fresh) {
        context.beginPath();
        context.arc(2 * x, 2 * y, 2 * radius, 0, 7);
        context.fill();
      }
      if (!cursor.shown) return;
      for (const [colour, width] of [["#000", 5], ["#fff", 2]]) {
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.beginPath();
        context.arc(2 * cursor.x, 2 * cursor.y, size(), 0, 7);
        context.stroke();
      }
    };
    const dab = (value) => {
      const radius = size() / 2;
      for (let y = Math.max(0, Math.floor(cursor.y - radius)); y < Math.min(side, cursor.y + radius); y++)
        for (let x = Math.max(0, Math.floor(cursor.x - radius)); x < Math.min(side, cursor.x + radius); x++)
          if ((x + 0.5 - cursor.x) ** 2 + (y + 0.5 - cursor.y) ** 2 <= radius ** 2) mask.bits[y * side + x] = value;
      if (value) fresh.push([cursor.x, cursor.y, radius]);
      send("mask", side, [packed()]);
    };
    const to = (x, y) => Object.assign(cursor, { x: Math.min(side, Math.max(0, x)), y: Math.min(side, Math.max(0, y)), shown: true });
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
    };
    let drawing = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drawing = at(event);
      to(...drawing);
      dab(event.shiftKey ? 0 : 1);
      drawMask();
    });
    canvas.addEventListener("pointermove", (event) => {
      const end = at(event);
      if (drawing) {
        const steps = Math.max(1, Math.ceil(Math.hypot(end[0] - drawing[0], end[1] - drawing[1]) / (size() / 4)));
        for (let i = 1; i <= steps; i++) {
          to(drawing[0] + ((end[0] - drawing[0]) * i) / steps, drawing[1] + ((end[1] - drawing[1]) * i) / steps);
          dab(event.shiftKey ? 0 : 1);
        }
        drawing = end;
      }
      to(...end);
      drawMask();
    });
    const stop = () => (drawing = null);
    canvas.addEventListener("pointerup", stop);
    canvas.addEventListener("pointercancel", stop);
    canvas.addEventListener("pointerleave", () => {
      cursor.shown = document.activeElement === canvas;
      drawMask();
    });
    canvas.addEventListener("focus", () => {
      cursor.shown = true;
      drawMask();
    });
    canvas.addEventListener("keydown", (event) => {
      const step = Math.max(1, size() / 2);
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (moves[event.key]) to(cursor.x + moves[event.key][0], cursor.y + moves[event.key][1]);
      else if (event.key === " ") dab(1);
      else if (event.key.toLowerCase() === "e") dab(0);
      else if (["+", "-"].includes(event.key)) {
        brush().value = Number(brush().value) + (event.key === "+" ? 4 : -4);
        brush().dispatchEvent(new Event("input", { bubbles: true }));
      } else return;
      event.preventDefault();
      event.stopPropagation();
      drawMask();
    });
    // The kernel's picture shows what is covered.
    canvas.previousElementSibling.addEventListener("load", () => {
      fresh = [];
      drawMask();
    });
  }
}

export default { render };
