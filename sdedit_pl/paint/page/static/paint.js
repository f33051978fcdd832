/* The paint page. Layers are canvases at the picture's resolution; the view draws them scaled and moved. The guide, the
   mask and the settings are kept in the browser's database after each change, so that a reload loses nothing. */
"use strict";

const $ = (id) => document.getElementById(id);
const FRESH = 512; // pixels on the shorter side of a blank canvas, or more for larger models
const UNDO_PIXELS = 60e6;
const CELLS = 64; // grid on which separate parts of a mask are found

const layer = () => {
  const canvas = document.createElement("canvas");
  return { canvas, ctx: canvas.getContext("2d", { willReadFrequently: true }) };
};
const guide = layer(), mask = layer(), stroke = layer(), scratch = layer();
let base = layer(); // the picture as it was opened, which the eraser restores
let source = null; // the opened picture at its own size, sent as it is while nothing is painted on it
let width = 0, height = 0;

const state = {
  model: null, seconds: 0, overhead: 0, queued: 0, jobs: [],
  onMask: false, tool: "brush", held: null, scope: "whole", locked: false,
  frame: null, object: null, regions: [], touched: false,
  job: null, sending: false, shown: null, chosen: null, file: null,
};
const view = { scale: 1, x: 0, y: 0 };
const changes = { done: [], undone: [] };
const number = (id) => Number($(id).value);

/* The address of a file as a picture; for data other than photographs, the server draws it. */
const shownAt = (address) => (state.model.rule ? `shown/${address}` : address);

/* The colour to paint with, grey if one band is shown. */
function front() {
  const colour = [1, 3, 5].map((i) => parseInt($("front").value.slice(i, i + 2), 16));
  const grey = Math.round((299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000);
  return state.model.bands === 1 ? [grey, grey, grey] : colour;
}

/* ---- picture ---- */

function resize(w, h) {
  width = w;
  height = h;
  for (const each of [guide, mask, stroke, scratch, base]) {
    each.canvas.width = w;
    each.canvas.height = h;
  }
}

/* `file` is the address of the file that the image shows, whose values unpainted pixels keep. */
function openPicture(image, keep, file = null) {
  const { width: across, height: down } = state.model;
  const larger = Math.max(FRESH / Math.min(across, down), 2);
  const w = image ? image.width : Math.round(across * larger), h = image ? image.height : Math.round(down * larger);
  let scale = image && !file ? Math.max(1, (larger * Math.min(across, down)) / Math.min(w, h)) : 1;
  if (image && w * h > state.model.pixels) {
    scale = Math.sqrt(state.model.pixels / (w * h));
    notify(`The picture has ${w}×${h} pixels; it was reduced to ${Math.floor(w * scale)}×${Math.floor(h * scale)}.`, true);
  }
  resize(Math.floor(w * scale), Math.floor(h * scale));
  base = layer();
  base.canvas.width = width;
  base.canvas.height = height;
  base.ctx.fillStyle = "#fff";
  base.ctx.fillRect(0, 0, width, height);
  base.ctx.imageSmoothingQuality = "high";
  if (image) base.ctx.drawImage(image, 0, 0, width, height);
  guide.ctx.drawImage(base.canvas, 0, 0);
  source = image && scale > 1 ? image : null;
  Object.assign(state, { frame: null, object: null, touched: false, file });
  changes.done = [];
  changes.undone = [];
  setScope(fitting() ? "whole" : "part");
  setTool("brush");
  setLayer(false);
  hideCompare();
  changed(!keep);
  fit();
}

/* Whether the picture has the model's proportions, up to rounding. */
function fitting() {
  const { width: across, height: down } = state.model;
  return Math.abs(width * down - height * across) < Math.max(across, down);
}

function picturePixels(ctx, x, y, w, h) {
  return ctx.getImageData(x, y, Math.max(1, w), Math.max(1, h));
}

/* Applies `draw` to a layer within a box, so that it can be undone. */
function edit(target, box, draw) {
  const x = Math.max(0, Math.floor(box.x)), y = Math.max(0, Math.floor(box.y));
  const w = Math.min(width, Math.ceil(box.x + box.w)) - x, h = Math.min(height, Math.ceil(box.y + box.h)) - y;
  if (w <= 0 || h <= 0) return;
  const before = picturePixels(target.ctx, x, y, w, h);
  target.ctx.save();
  draw(target.ctx);
  target.ctx.restore();
  changes.done.push({ target, x, y, before, touched: state.touched });
  changes.undone = [];
  let pixels = 0;
  for (let index = changes.done.length - 1; index >= 0; index--) {
    pixels += changes.done[index].before.width * changes.done[index].before.height;
    if (pixels > UNDO_PIXELS && index < changes.done.length - 1) changes.done.splice(0, index + 1), (index = -1);
  }
  if (target === guide) state.touched = true;
  changed();
}

function step(from, to) {
  const entry = from.pop();
  if (!entry) return;
  const { target, x, y, before, touched } = entry;
  to.push({ ...entry, before: picturePixels(target.ctx, x, y, before.width, before.height), touched: state.touched });
  target.ctx.putImageData(before, x, y);
  state.touched = touched;
  changed();
}
const all = () => ({ x: 0, y: 0, w: width, h: height });

function changed(store = true) {
  feathered.key = null;
  findRegions();
  drawNoised();
  describe();
  redraw();
  if (store) storeSoon();
}

/* ---- mask ---- */

const feathered = { layer: layer(), key: null };

function hasMask() {
  return state.regions.length > 0;
}

/* The mask with its feather: three box blurs, which every browser computes alike. */
function wholeMask() {
  const radius = Math.round((number("feather") / 100) ** 2 * 0.12 * Math.min(width, height));
  if (!radius) return mask.canvas;
  if (feathered.key !== radius) {
    const { canvas, ctx } = feathered.layer;
    canvas.width = width;
    canvas.height = height;
    const image = mask.ctx.getImageData(0, 0, width, height);
    let alpha = new Float32Array(width * height);
    for (let i = 0; i < alpha.length; i++) alpha[i] = image.data[4 * i + 3];
    for (let pass = 0; pass < 3; pass++) {
      alpha = blurred(alpha, width, height, Math.max(1, Math.round(radius / 2)));
    }
    for (let i = 0; i < alpha.length; i++) {
      image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = 255;
      image.data[4 * i + 3] = alpha[i] + 0.5;
    }
    ctx.putImageData(image, 0, 0);
    feathered.key = radius;
  }
  return feathered.layer.canvas;
}

function blurred(values, w, h, radius) {
  const rows = new Float32Array(values.length), both = new Float32Array(values.length);
  const run = (from, to, start, stride, length) => {
    let sum = 0;
    const at = (i) => from[start + Math.min(length - 1, Math.max(0, i)) * stride];
    for (let i = -radius; i <= radius; i++) sum += at(i);
    for (let i = 0; i < length; i++) {
      to[start + i * stride] = sum / (2 * radius + 1);
      sum += at(i + radius + 1) - at(i - radius);
    }
  };
  for (let y = 0; y < h; y++) run(values, rows, y * w, 1, w);
  for (let x = 0; x < w; x++) run(rows, both, x, w, h);
  return both;
}

/* The boxes of the mask's separate parts, found on a coarse grid as the server does. */
function findRegions() {
  const cell = Math.max(1, Math.ceil(Math.max(width, height) / CELLS));
  const across = Math.ceil(width / cell), down = Math.ceil(height / cell);
  const small = document.createElement("canvas");
  small.width = across;
  small.height = down;
  const ctx = small.getContext("2d", { willReadFrequently: true });
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(mask.canvas, 0, 0, width, height, 0, 0, width / cell, height / cell);
  const data = ctx.getImageData(0, 0, across, down).data;
  const open = new Set();
  for (let i = 0; i < across * down; i++) if (data[4 * i + 3] > 0) open.add(i);
  state.regions = [];
  for (const first of [...open]) {
    if (!open.delete(first)) continue;
    const queue = [first], box = [across, down, 0, 0];
    while (queue.length) {
      const at = queue.pop(), x = at % across, y = (at - x) / across;
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x + 1);
      box[3] = Math.max(box[3], y + 1);
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const nx = x + dx, ny = y + dy;
          if (nx >= 0 && nx < across && ny >= 0 && ny < down && open.delete(ny * across + nx)) queue.push(ny * across + nx);
        }
      }
    }
    state.regions.push({ x: box[0] * cell, y: box[1] * cell, w: (box[2] - box[0]) * cell, h: (box[3] - box[1]) * cell });
  }
}

/* The parts that the model sees, which have its proportions. */
function seenParts() {
  const { width: across, height: down } = state.model, ratio = across / down;
  const inside = (x, y, wide) => {
    const w = Math.min(wide, width, height * ratio), h = w / ratio;
    return { x: Math.min(Math.max(0, x - w / 2), width - w), y: Math.min(Math.max(0, y - h / 2), height - h), w, h };
  };
  if (state.scope === "windows") return [];
  if (state.scope === "whole") return [inside(width / 2, height / 2, Infinity)];
  if (state.frame) {
    const { x, y, w, h } = state.frame;
    return [inside(x + w / 2, y + h / 2, Math.max(w, h * ratio))];
  }
  return state.regions.map(({ x, y, w, h }) => inside(x + w / 2, y + h / 2, Math.max(2 * Math.max(w, h * ratio), across)));
}

/* Evaluations of the network for a step of a sample. */
function evaluations() {
  if (state.scope !== "windows") return Math.max(1, seenParts().length);
  const { width: across, height: down } = state.model, overlap = Math.floor(Math.min(across, down) / 2);
  const along = (length, size) => 1 + Math.ceil(Math.max(0, length - size) / (size - overlap));
  return along(width, across) * along(height, down);
}

/* ---- drawing the view ---- */

const paper = $("view").getContext("2d");
const pointer = { x: 0, y: 0, over: false };
let pending = false;

function redraw() {
  if (!pending) requestAnimationFrame(draw);
  pending = true;
}

function draw() {
  pending = false;
  const canvas = $("view"), ratio = devicePixelRatio || 1;
  const w = Math.round(canvas.clientWidth * ratio), h = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  paper.setTransform(1, 0, 0, 1, 0, 0);
  paper.clearRect(0, 0, w, h);
  if (!width) return;
  const place = (ctx) => ctx.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
  place(paper);
  paper.imageSmoothingEnabled = view.scale < 4;
  paper.drawImage(guide.canvas, 0, 0);
  if (current && !state.onMask) drawStroke(paper);
  drawTint(w, h, place);
  if (state.object) drawObject();
  paper.lineWidth = 1.5 / view.scale;
  const seen = seenParts();
  if (state.scope === "part" || (state.scope === "whole" && !fitting())) {
    for (const dash of [0, 1]) {
      paper.setLineDash([6 / view.scale, 6 / view.scale]);
      paper.lineDashOffset = (dash * 6) / view.scale;
      paper.strokeStyle = dash ? "#fff" : "#222";
      for (const { x, y, w: sw, h: sh } of seen) paper.strokeRect(x, y, sw, sh);
    }
    paper.setLineDash([]);
  }
  const tool = state.held || state.tool;
  if (pointer.over && ["brush", "eraser"].includes(tool) && !state.object) {
    for (const [colour, grow] of [["#fff", 1], ["#000", 0]]) {
      paper.strokeStyle = colour;
      paper.lineWidth = 1 / view.scale;
      paper.beginPath();
      paper.arc(pointer.x, pointer.y, brushSize() / 2 + grow / view.scale, 0, 7);
      paper.stroke();
    }
  }
}

/* The mask over the picture, in one colour. */
function drawTint(w, h, place) {
  if (!hasMask() && !(current && state.onMask)) return;
  if (tint.canvas.width !== w || tint.canvas.height !== h) Object.assign(tint.canvas, { width: w, height: h });
  const { ctx } = tint;
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.globalCompositeOperation = "source-over";
  ctx.clearRect(0, 0, w, h);
  place(ctx);
  if (current && state.onMask) {
    ctx.drawImage(mask.canvas, 0, 0);
    drawStroke(ctx);
  } else {
    ctx.drawImage(wholeMask(), 0, 0);
  }
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.globalCompositeOperation = "source-in";
  ctx.globalAlpha = 1;
  ctx.fillStyle = "#e0218a";
  ctx.fillRect(0, 0, w, h);
  paper.save();
  paper.setTransform(1, 0, 0, 1, 0, 0);
  paper.globalAlpha = state.onMask ? 0.5 : 0.2;
  paper.drawImage(tint.canvas, 0, 0);
  paper.restore();
}
const tint = layer();

function fit() {
  const { clientWidth: w, clientHeight: h } = $("view");
  view.scale = Math.min((w - 24) / width, (h - 24) / height);
  view.x = (w - width * view.scale) / 2;
  view.y = (h - height * view.scale) / 2;
  redraw();
}

function zoom(factor, x = $("view").clientWidth / 2, y = $("view").clientHeight / 2) {
  const scale = Math.min(40, Math.max(0.02, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  redraw();
}

/* The guide at t0 as the model sees it, scaled to the range of a picture. */
const gaussians = [];
function drawNoised() {
  const canvas = $("noised"), { width: across, height: down } = state.model;
  canvas.width = across;
  canvas.height = down;
  const ctx = canvas.getContext("2d", { willReadFrequently: true });
  ctx.imageSmoothingQuality = "high";
  const { x, y, w, h } = seenParts()[0] || { x: 0, y: 0, w: width, h: height };
  ctx.drawImage(guide.canvas, x, y, w, h, 0, 0, across, down);
  const image = ctx.getImageData(0, 0, across, down);
  while (gaussians.length < image.data.length) {
    gaussians.push(Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
  }
  const level = noiseLevel(), shrink = 1 / Math.sqrt(1 + level * level);
  for (let i = 0; i < image.data.length; i++) {
    if (i % 4 !== 3) image.data[i] = (((image.data[i] / 127.5 - 1) + level * gaussians[i]) * shrink + 1) * 127.5;
  }
  ctx.putImageData(image, 0, 0);
}

function noiseLevel() {
  return state.model.levels[number("t0")];
}
function t0() {
  return Math.round((number("t0") / 100) * state.model.t_max * 1000) / 1000;
}

/* ---- strokes ---- */

let current = null; // the stroke being drawn

/* The lower half of the slider is for fine brushes; the largest is half the picture's shorter side wide. */
function brushSize() {
  return Math.max(1, Math.min(width, height) * 0.5 * (number("size") / 100) ** 2.2);
}

function startStroke(point) {
  stroke.ctx.clearRect(0, 0, width, height);
  current = { last: point, box: null, erase: (state.held || state.tool) === "eraser" };
  extendStroke(point);
}

function extendStroke(point) {
  const { ctx } = stroke, size = brushSize() * point.pressure, from = current.last;
  ctx.strokeStyle = state.onMask ? "#fff" : `rgb(${front()})`;
  ctx.lineCap = ctx.lineJoin = "round";
  ctx.lineWidth = size;
  ctx.beginPath();
  ctx.moveTo(from.x, from.y);
  ctx.lineTo(point.x + (from === point ? 0.01 : 0), point.y);
  ctx.stroke();
  const r = size / 2 + 2;
  const [left, top] = [Math.min(from.x, point.x) - r, Math.min(from.y, point.y) - r];
  const [right, bottom] = [Math.max(from.x, point.x) + r, Math.max(from.y, point.y) + r];
  const box = current.box || { x: left, y: top, w: 0, h: 0 };
  const [x, y] = [Math.min(box.x, left), Math.min(box.y, top)];
  current.box = { x, y, w: Math.max(box.x + box.w, right) - x, h: Math.max(box.y + box.h, bottom) - y };
  current.last = point;
  redraw();
}

/* Draws the current stroke on a layer, or on the view above it. */
function drawStroke(ctx) {
  const alpha = number("opacity") / 100;
  let drawn = stroke.canvas;
  if (current.erase && !state.onMask) {
    scratch.ctx.globalCompositeOperation = "copy";
    scratch.ctx.drawImage(stroke.canvas, 0, 0);
    scratch.ctx.globalCompositeOperation = "source-in";
    scratch.ctx.drawImage(base.canvas, 0, 0);
    drawn = scratch.canvas;
  }
  ctx.globalAlpha = alpha;
  if (current.erase && state.onMask) ctx.globalCompositeOperation = "destination-out";
  ctx.drawImage(drawn, 0, 0);
  ctx.globalAlpha = 1;
  ctx.globalCompositeOperation = "source-over";
}

function endStroke() {
  if (!current) return;
  if (state.onMask && number("opacity") < 100) $("soft").checked = true;
  edit(state.onMask ? mask : guide, current.box, drawStroke);
  current = null;
  redraw();
}

/* Fills the area of one colour around a point; on the mask, it marks that area. */
function fill(point) {
  const x0 = Math.floor(point.x), y0 = Math.floor(point.y);
  if (x0 < 0 || y0 < 0 || x0 >= width || y0 >= height) return;
  const pixels = guide.ctx.getImageData(0, 0, width, height).data, seen = new Uint8Array(width * height);
  const at = 4 * (y0 * width + x0), colour = [pixels[at], pixels[at + 1], pixels[at + 2]];
  const like = (i) => !seen[i] && colour.every((value, c) => Math.abs(pixels[4 * i + c] - value) <= 28);
  const queue = [y0 * width + x0];
  while (queue.length) {
    const start = queue.pop(), y = Math.floor(start / width);
    if (!like(start)) continue;
    let left = start, right = start;
    while (left > y * width && like(left - 1)) left--;
    while (right < y * width + width - 1 && like(right + 1)) right++;
    let above = false, below = false;
    for (let i = left; i <= right; i++) {
      seen[i] = 1;
      for (const [next, open, was] of [[i - width, y > 0, above], [i + width, y < height - 1, below]]) {
        const free = open && like(next);
        if (free && !was) queue.push(next);
        if (next < i) above = free;
        else below = free;
      }
    }
  }
  const image = scratch.ctx.createImageData(width, height);
  const filled = state.onMask ? [255, 255, 255] : front();
  for (let i = 0; i < seen.length; i++) if (seen[i]) image.data.set([...filled, 255], 4 * i);
  scratch.ctx.putImageData(image, 0, 0);
  edit(state.onMask ? mask : guide, all(), (ctx) => {
    ctx.globalAlpha = number("opacity") / 100;
    ctx.drawImage(scratch.canvas, 0, 0);
  });
}

function pick(point) {
  const [r, g, b] = picturePixels(guide.ctx, Math.floor(point.x), Math.floor(point.y), 1, 1).data;
  $("front").value = "#" + [r, g, b].map((value) => value.toString(16).padStart(2, "0")).join("");
}

/* ---- a pasted object ---- */

function addObject(image) {
  const scale = Math.min((0.4 * width) / image.width, (0.4 * height) / image.height);
  state.object = { image, x: width / 2, y: height / 2, scale, turn: 0 };
  hideCompare();
  $("objectbar").hidden = false;
  objectSliders();
  redraw();
}

function objectSliders() {
  const { image, scale, turn } = state.object;
  $("objectsize").value = 100 * Math.sqrt((scale * Math.max(image.width, image.height)) / (2 * Math.max(width, height)));
  $("objectturn").value = (turn * 180) / Math.PI;
}

function placeObject(ctx, grow = 0, side = 0) {
  const { image, x, y, scale, turn } = state.object;
  ctx.translate(x + grow * Math.cos(side), y + grow * Math.sin(side));
  ctx.rotate(turn);
  ctx.scale(scale, scale);
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(image, -image.width / 2, -image.height / 2);
}

function drawObject() {
  paper.save();
  placeObject(paper);
  const { image, scale } = state.object, unit = 1 / (scale * view.scale);
  paper.lineWidth = 1.5 * unit;
  paper.strokeStyle = "#fff";
  paper.strokeRect(-image.width / 2, -image.height / 2, image.width, image.height);
  paper.setLineDash([5 * unit, 5 * unit]);
  paper.strokeStyle = "#222";
  paper.strokeRect(-image.width / 2, -image.height / 2, image.width, image.height);
  paper.setLineDash([]);
  paper.fillStyle = "#fff";
  for (const [x, y] of [[image.width / 2, image.height / 2], [0, -image.height / 2 - 26 * unit]]) {
    paper.beginPath();
    paper.arc(x, y, 8 * unit, 0, 7);
    paper.fill();
    paper.stroke();
  }
  paper.restore();
}

/* The part of the object at a point: "size", "turn", "body" or null. */
function objectPart(point) {
  const { image, x, y, scale, turn } = state.object;
  const dx = point.x - x, dy = point.y - y;
  const across = dx * Math.cos(turn) + dy * Math.sin(turn), down = dy * Math.cos(turn) - dx * Math.sin(turn);
  const [w, h] = [(image.width * scale) / 2, (image.height * scale) / 2], reach = 20 / view.scale;
  if (Math.hypot(across - w, down - h) < reach) return "size";
  if (Math.hypot(across, down + h + 26 / view.scale) < reach) return "turn";
  return Math.abs(across) <= w && Math.abs(down) <= h ? "body" : null;
}

function moveObject(drag, point) {
  const object = state.object;
  if (drag.part === "body") {
    object.x += point.x - drag.last.x;
    object.y += point.y - drag.last.y;
  } else if (drag.part === "size") {
    const half = Math.hypot(object.image.width, object.image.height) / 2;
    object.scale = Math.max(0.01, Math.hypot(point.x - object.x, point.y - object.y) / half);
  } else if (drag.part === "turn") {
    object.turn = Math.atan2(point.x - object.x, object.y - point.y);
  }
  drag.last = point;
  objectSliders();
  redraw();
}

function finishObject(place) {
  if (!state.object) return;
  if (place) {
    edit(guide, all(), (ctx) => placeObject(ctx));
    if ($("objectmask").checked) {
      const border = 0.03 * Math.min(width, height);
      scratch.ctx.clearRect(0, 0, width, height);
      for (let side = 0; side < 24; side++) {
        scratch.ctx.save();
        placeObject(scratch.ctx, border, (side / 12) * Math.PI);
        scratch.ctx.restore();
      }
      scratch.ctx.globalCompositeOperation = "source-in";
      scratch.ctx.fillStyle = "#fff";
      scratch.ctx.fillRect(0, 0, width, height);
      scratch.ctx.globalCompositeOperation = "source-over";
      edit(mask, all(), (ctx) => ctx.drawImage(scratch.canvas, 0, 0));
    }
  }
  state.object = null;
  $("objectbar").hidden = true;
  redraw();
}

/* ---- pointers ---- */

const pointers = new Map();
let gesture = null; // two fingers
let drag = null; // hand, frame or object

function toPicture(event) {
  const box = $("view").getBoundingClientRect();
  const pressure = event.pointerType === "pen" && event.pressure ? 0.25 + 0.75 * event.pressure : 1;
  return {
    x: (event.clientX - box.left - view.x) / view.scale, y: (event.clientY - box.top - view.y) / view.scale, pressure,
  };
}

function twoFingers() {
  const box = $("view").getBoundingClientRect();
  const [a, b] = [...pointers.values()];
  return {
    x: (a.clientX + b.clientX) / 2 - box.left, y: (a.clientY + b.clientY) / 2 - box.top,
    span: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), turn: Math.atan2(b.clientY - a.clientY, b.clientX - a.clientX),
  };
}

$("view").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  $("view").focus({ preventScroll: true });
  $("view").setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
  if (pointers.size === 2) {
    current = drag = null;
    gesture = twoFingers();
    return redraw();
  }
  if (pointers.size > 2) return;
  const point = toPicture(event);
  Object.assign(pointer, point, { over: event.pointerType !== "touch" });
  const tool = state.held || (event.altKey ? "pick" : event.button === 1 ? "hand" : state.tool);
  if (state.object && tool !== "hand") {
    const part = objectPart(point);
    if (part) drag = { part, last: point };
  } else if (tool === "hand") {
    drag = { part: "hand", last: event };
  } else if (tool === "frame") {
    drag = { part: "frame", start: point };
  } else if (tool === "pick") {
    pick(point);
    drag = { part: "pick" };
  } else if (tool === "fill") {
    fill(point);
  } else {
    startStroke(point);
  }
});

$("view").addEventListener("pointermove", (event) => {
  const point = toPicture(event);
  Object.assign(pointer, point, { over: event.pointerType !== "touch" });
  redraw();
  if (!pointers.has(event.pointerId)) return;
  pointers.set(event.pointerId, event);
  if (gesture && pointers.size >= 2) {
    const now = twoFingers();
    if (state.object) {
      state.object.scale *= now.span / gesture.span;
      state.object.turn += now.turn - gesture.turn;
      state.object.x += (now.x - gesture.x) / view.scale;
      state.object.y += (now.y - gesture.y) / view.scale;
      objectSliders();
    } else {
      view.x += now.x - gesture.x;
      view.y += now.y - gesture.y;
      zoom(now.span / gesture.span, now.x, now.y);
    }
    gesture = now;
  } else if (current) {
    const passed = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of passed.length ? passed : [event]) extendStroke(toPicture(each));
  } else if (drag && drag.part === "hand") {
    view.x += event.clientX - drag.last.clientX;
    view.y += event.clientY - drag.last.clientY;
    drag.last = event;
  } else if (drag && drag.part === "frame") {
    const clip = (value, most) => Math.round(Math.min(most, Math.max(0, value)));
    const [x0, x1] = [drag.start.x, point.x].map((x) => clip(x, width)).sort((a, b) => a - b);
    const [y0, y1] = [drag.start.y, point.y].map((y) => clip(y, height)).sort((a, b) => a - b);
    state.frame = x1 - x0 > 7 && y1 - y0 > 7 ? { x: x0, y: y0, w: x1 - x0, h: y1 - y0 } : null;
    setScope("part");
  } else if (drag && drag.part === "pick") {
    pick(point);
  } else if (drag) {
    moveObject(drag, point);
  }
});

function release(event) {
  if (!pointers.delete(event.pointerId)) return;
  if (gesture) {
    if (pointers.size === 0) gesture = null;
    return;
  }
  if (drag && drag.part === "pick") setTool("brush");
  if (drag && drag.part === "frame") changed();
  drag = null;
  endStroke();
}
$("view").addEventListener("pointerup", release);
$("view").addEventListener("pointercancel", (event) => {
  current = null;
  release(event);
});
$("view").addEventListener("pointerleave", () => {
  pointer.over = false;
  redraw();
});
$("view").addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = $("view").getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

/* ---- tools and settings ---- */

function setTool(tool) {
  state.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  }
  $("view").classList.toggle("hand", tool === "hand");
  redraw();
}

function setLayer(onMask) {
  state.onMask = onMask;
  $("paint").setAttribute("aria-pressed", String(!onMask));
  $("mask").setAttribute("aria-pressed", String(onMask));
  $("maskbox").hidden = !onMask;
  $("colours").hidden = onMask;
  $("opacityname").textContent = onMask ? "Strength" : "Opacity";
  redraw();
}

function setScope(scope) {
  state.scope = scope;
  for (const each of ["whole", "windows", "part"]) $(each).setAttribute("aria-pressed", String(scope === each));
  describe();
  redraw();
}

function setLocked(locked) {
  state.locked = locked;
  $("lock").setAttribute("aria-pressed", String(locked));
  $("lock").textContent = locked ? "Seed locked" : "Lock seed";
}

/* The label and guidance of a request. Without a label, guidance is sent only to turn off the model's own. */
function labelled() {
  if ($("label").value) return { label: $("label").value, guidance: number("guidance") || 1 };
  return state.model.guidance === 1 || $("guided").checked ? {} : { guidance: 1 };
}

const duration = (seconds) =>
  seconds < 1 ? `${Math.max(0.1, seconds).toFixed(1)} s` : seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;

/* Everything that the page says about the current settings. */
function describe() {
  if (!state.model) return;
  $("t0out").textContent = `t0 ${t0().toFixed(2)} · noise ${noiseLevel().toFixed(2)}`;
  $("sizeout").textContent = `${Math.round(brushSize())} px`;
  $("opacityout").textContent = `${number("opacity")} %`;
  $("featherout").textContent = number("feather") ? `${number("feather")}` : "off";
  $("undo").disabled = !changes.done.length;
  $("redo").disabled = !changes.undone.length;
  const parts = seenParts().length, size = `${state.model.width} × ${state.model.height} px`;
  $("scopehint").textContent =
    state.scope === "whole"
      ? `${fitting() ? "All of it is" : "The central part is"} edited at ${size}.`
      : state.scope === "windows"
      ? `All of it is edited at its own ${width} × ${height} px, in ${evaluations()} overlapping windows. This suits textures and scenes, not faces.`
      : !parts
        ? "Paint the mask over the part to change, or drag a frame around it."
        : `${parts > 1 ? `${parts} parts, each` : "The part is"} edited at ${size} and put back; the rest stays as it is.`;
  if (state.job) return;
  const calls = number("steps") * number("samples") * evaluations() * ((labelled().guidance ?? state.model.guidance) === 1 ? 1 : 2);
  const seconds = state.overhead + state.seconds * calls + state.queued;
  $("time").textContent = `about ${duration(seconds)}${state.queued > 0.05 ? ", after others" : ""}`;
  $("run").disabled = state.scope === "part" && !parts;
}

for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => (hideCompare(), setTool(button.dataset.tool));
$("paint").onclick = () => (hideCompare(), setLayer(false));
$("mask").onclick = () => (hideCompare(), setLayer(true));
$("close").onclick = hideCompare;
for (const each of ["whole", "windows", "part"]) $(each).onclick = () => (setScope(each), changed());
$("lock").onclick = () => setLocked(!state.locked);
$("seed").oninput = () => setLocked(true);
$("undo").onclick = () => step(changes.done, changes.undone);
$("redo").onclick = () => step(changes.undone, changes.done);
$("swap").onclick = swap;
$("in").onclick = () => zoom(1.4);
$("out").onclick = () => zoom(1 / 1.4);
$("fit").onclick = fit;
$("t0").oninput = () => (drawNoised(), describe(), storeSoon());
$("feather").oninput = () => {
  $("soft").checked = number("feather") > 0;
  changed();
};
for (const id of ["size", "opacity", "samples", "steps", "soft", "label", "guidance", "guided"]) $(id).oninput = () => (describe(), storeSoon(), redraw());
$("invert").onclick = () =>
  edit(mask, all(), (ctx) => {
    ctx.globalCompositeOperation = "xor";
    ctx.fillStyle = "#fff";
    ctx.fillRect(0, 0, width, height);
  });
$("clear").onclick = () => {
  state.frame = null;
  $("feather").value = 0;
  $("soft").checked = false;
  edit(mask, all(), (ctx) => ctx.clearRect(0, 0, width, height));
};
$("place").onclick = () => finishObject(true);
$("discard").onclick = () => finishObject(false);
$("objectsize").oninput = () => {
  const { image } = state.object;
  const length = 2 * Math.max(width, height) * (number("objectsize") / 100) ** 2;
  state.object.scale = Math.max(0.01, length / Math.max(image.width, image.height));
  redraw();
};
$("objectturn").oninput = () => {
  state.object.turn = (number("objectturn") * Math.PI) / 180;
  redraw();
};

function swap() {
  [$("front").value, $("back").value] = [$("back").value, $("front").value];
}

function resizeBrush(by) {
  $("size").value = number("size") + by;
  describe();
  redraw();
}

const KEYS = {
  b: () => setTool("brush"), e: () => setTool("eraser"), f: () => setTool("fill"), i: () => setTool("pick"),
  r: () => setTool("frame"), h: () => setTool("hand"), m: () => setLayer(!state.onMask), x: swap,
  "[": () => resizeBrush(-4), "]": () => resizeBrush(4), 0: fit, "+": () => zoom(1.4), "-": () => zoom(1 / 1.4),
};

document.addEventListener("keydown", (event) => {
  const target = event.target, typing = target.tagName === "INPUT" && target.type === "number";
  const control = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  if (control && !typing && (key === "z" || key === "y")) {
    event.preventDefault();
    if (key === "y" || event.shiftKey) step(changes.undone, changes.done);
    else step(changes.done, changes.undone);
  } else if (event.key === "Enter" && !["BUTTON", "A", "SUMMARY"].includes(target.tagName)) {
    event.preventDefault();
    if (state.object) finishObject(true);
    else run();
  } else if (event.key === "Escape") {
    if (state.object) finishObject(false);
    else if (state.frame) (state.frame = null), changed();
    hideCompare();
    $("choice").hidden = true;
  } else if (event.key === " " && !["BUTTON", "SUMMARY"].includes(target.tagName)) {
    event.preventDefault();
    state.held = "hand";
  } else if (!control && !event.altKey && !typing && KEYS[key]) {
    event.preventDefault();
    KEYS[key]();
  }
});
// A button that was clicked does not keep the focus, so that Enter runs the edit.
document.addEventListener("click", (event) => {
  const clicked = event.detail && event.target.closest("button");
  if (clicked) clicked.blur();
});
document.addEventListener("keyup", (event) => {
  if (event.key === " ") state.held = null;
});

/* ---- pictures from files, the clipboard and other windows ---- */

let opening = "picture";
let offered = null;

async function take(file, as) {
  if (!file) return;
  const ownFormat = state.model.rule && !(as === "object" && file.type.startsWith("image/"));
  if (!ownFormat && !file.type.startsWith("image/")) return notify(`${file.name} is not a picture; drop a PNG, JPEG or WebP file.`);
  let image, address = null;
  try {
    if (ownFormat) address = await upload(file);
    image = await (ownFormat ? loadImage(shownAt(address)) : createImageBitmap(file));
  } catch (error) {
    if (ownFormat) return notify(error.message);
    return notify(`${file.name || "The picture"} cannot be opened: it is damaged, too large for the browser, or of an unknown kind.`);
  }
  if (file.type === "image/gif") notify("Only the first frame of an animation is used.", true);
  if (as === "object") return addObject(image);
  if (as === "picture" || !(state.touched || source || hasMask() || state.opened)) return takePicture(image, address);
  offered = { image, address };
  $("choice").hidden = false;
}

/* Sends a file of the model's format to the server, which stores it at the address that it returns. */
async function upload(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
  return (await ask("api/guides", { name: file.name, content: url.slice(url.indexOf(",") + 1) })).source;
}

/* Makes a picture the new canvas; `address` is its file, for a model of data other than photographs. */
function takePicture(image, address) {
  state.opened = true;
  openPicture(image, false, state.model.rule ? address : null);
}

/* Opens a blank canvas. */
async function blank(keep) {
  state.opened = false;
  if (state.model.rule) openPicture(await loadImage(shownAt("blank")), keep, "blank");
  else openPicture(null, keep);
}

$("aspicture").onclick = () => (($("choice").hidden = true), takePicture(offered.image, offered.address));
$("asobject").onclick = () => (($("choice").hidden = true), addObject(offered.image));
$("blank").onclick = () => blank().catch((error) => notify(error.message));
$("open").onclick = () => ((opening = "picture"), $("file").click());
$("add").onclick = () => ((opening = "object"), $("file").click());
$("file").onchange = () => {
  take($("file").files[0], opening);
  $("file").value = "";
};
$("examples").onclick = () => {
  $("guides").hidden = !$("guides").hidden;
  $("examples").setAttribute("aria-expanded", String(!$("guides").hidden));
  fit();
};
addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});

async function loadImage(address) {
  const reply = await fetch(address);
  if (!reply.ok) throw new Error((await reply.json().catch(() => ({}))).error || `${address} is not there`);
  return createImageBitmap(await reply.blob());
}

/* ---- running ---- */

async function ask(path, body) {
  let reply;
  try {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Your painting is kept here; start the server again.");
  }
  const content = await reply.json().catch(() => ({ error: `The server answered ${reply.status}.` }));
  if (!reply.ok) throw new Error(content.error);
  return content;
}

function sentPicture(draw, w, h) {
  const { canvas, ctx } = layer();
  canvas.width = w;
  canvas.height = h;
  ctx.imageSmoothingQuality = "high";
  draw(ctx);
  return canvas.toDataURL("image/png");
}

async function run() {
  if (state.job || state.sending) return;
  if ($("run").disabled) return notify($("scopehint").textContent, true);
  notify("");
  finishObject(true);
  if (!state.locked) $("seed").value = Math.floor(Math.random() * 1e6);
  const own = source && !state.touched && state.scope === "whole"; // its own pixels, not enlarged ones
  const w = own ? source.width : width, h = own ? source.height : height;
  const body = {
    source: state.file,
    guide: sentPicture((ctx) => ctx.drawImage(own ? source : guide.canvas, 0, 0, w, h), w, h),
    t0: t0(), steps: number("steps"), samples: number("samples"), seed: number("seed"),
    windows: state.scope === "windows", match_colours: $("hold").checked, ...labelled(),
  };
  if (hasMask()) {
    body.area = sentPicture((ctx) => {
      ctx.fillRect(0, 0, w, h);
      ctx.drawImage(wholeMask(), 0, 0, w, h);
    }, w, h);
    body.kind = $("soft").checked ? "strength" : "mask";
  }
  if (state.scope === "part") {
    const f = state.frame;
    body.focus = f ? [f.x, f.y, f.w, f.h] : true;
  }
  state.sending = true;
  try {
    const { identity } = await ask("api/edits", body);
    sessionStorage.setItem("job", identity);
    follow(identity);
  } catch (error) {
    notify(error.message);
  }
  state.sending = false;
}

function follow(identity) {
  const events = new EventSource(`api/edits/${identity}/events`);
  state.job = { identity, events };
  state.shown = identity;
  $("run").classList.add("cancel");
  $("run").disabled = false;
  $("runname").textContent = "Cancel";
  $("progress").hidden = false;
  events.onmessage = (message) => {
    const { job, position, estimates } = JSON.parse(message.data);
    $("time").textContent = position ? `${position} ${position === 1 ? "edit" : "edits"} before this one` : `${Math.round((100 * job.done) / job.total)} %`;
    $("progress").firstElementChild.style.width = `${(100 * job.done) / job.total}%`;
    if (job.state === "running" || job.state === "waiting") showEstimates(job, estimates);
    else finish(job);
  };
  events.onerror = async () => {
    events.close();
    if (!state.job || state.job.identity !== identity) return;
    try {
      await refresh();
    } catch {
      notify("The server does not answer; your painting is kept here. Trying again …");
      return setTimeout(events.onerror, 1000);
    }
    const job = state.jobs.find((each) => each.identity === identity);
    if (job && (job.state === "running" || job.state === "waiting")) follow(identity);
    else finish(job);
  };
}

function endRun() {
  if (state.job) state.job.events.close();
  state.job = null;
  $("run").classList.remove("cancel");
  $("runname").textContent = "Run";
  $("progress").hidden = true;
  describe();
}

async function finish(job) {
  endRun();
  await refresh().catch((error) => notify(error.message));
  if (!job) return notify("The server was restarted with another folder; run the edit again.");
  if (job.state === "done") showJob(job, 0);
  else {
    hideCompare();
    showRow(false);
    if (job.state === "interrupted") notify("The server was stopped during this edit. Run it again; nothing else is lost.");
    else if (job.state !== "cancelled") notify(job.message);
  }
}

$("run").onclick = () => {
  if (state.job) ask(`api/edits/${state.job.identity}/cancel`, {}).catch((error) => notify(error.message));
  else run();
};

/* ---- results ---- */

const button = (image, title) => {
  const made = document.createElement("button"), picture = document.createElement("img");
  picture.src = image;
  picture.alt = title;
  made.title = title;
  made.append(picture);
  return made;
};

function showRow(shown) {
  $("welcome").hidden = shown;
  $("resultbar").hidden = $("samplesrow").hidden = !shown;
  if (!shown) $("samplesrow").replaceChildren();
}

function showEstimates(job, estimates) {
  showRow(true);
  $("actions").hidden = $("restore").hidden = true;
  $("resultname").textContent = "estimates of the result";
  const row = $("samplesrow");
  while (row.children.length > estimates.length) row.lastChild.remove();
  estimates.forEach((estimate, index) => {
    if (!row.children[index]) row.append(button(estimate, "estimate"));
    row.children[index].firstElementChild.src = estimate;
    row.children[index].disabled = true;
  });
  if (estimates.length && !job.settings.focus) compare(estimates[0], null);
}

/* Shows a sample, beside its guide if there is one. */
function compare(after, before) {
  const picture = $("after");
  $("pair").classList.toggle("single", !before);
  picture.onload = () => {
    const box = $("compare").getBoundingClientRect();
    const scale = Math.min((box.width - 28) / picture.naturalWidth, (box.height - 62) / picture.naturalHeight);
    $("pair").style.width = `${picture.naturalWidth * scale}px`;
    $("pair").style.height = `${picture.naturalHeight * scale}px`;
  };
  picture.src = after;
  if (before) $("before").src = before;
  $("compare").hidden = false;
  $("close").hidden = !before;
  $("zoom").hidden = true;
}

function hideCompare() {
  $("compare").hidden = true;
  $("zoom").hidden = false;
}
const split = () => $("compare").style.setProperty("--split", `${number("split")}%`);
$("split").oninput = split;
$("pair").onpointermove = $("pair").onpointerdown = (event) => {
  if (!event.buttons) return;
  const box = $("pair").getBoundingClientRect();
  $("split").value = (100 * (event.clientX - box.left)) / box.width;
  split();
};
$("before").draggable = $("after").draggable = false;

function showJob(job, index) {
  const { identity, settings, samples } = job;
  state.shown = identity;
  showRow(true);
  $("restore").hidden = false;
  const row = $("samplesrow");
  row.replaceChildren(...samples.map((name, at) => {
    const made = button(`thumbs/${identity}/${name}`, `sample ${at + 1}, seed ${settings.seed + at}`);
    made.onclick = () => {
      showJob(job, at);
      $("stage").scrollIntoView({ block: "nearest", behavior: "smooth" });
    };
    return made;
  }));
  const area = settings.focus ? ", only this part" : settings.windows ? ", in windows" : settings.kind ? `, ${settings.kind}` : "";
  $("resultname").textContent = `t0 ${settings.t0}, seed ${settings.seed}${area}${job.state === "done" ? "" : `, ${job.state}`}`;
  $("actions").hidden = !samples.length;
  showHistory();
  if (!samples.length) return hideCompare();
  const name = samples[index], address = `results/${identity}/${name}`;
  row.children[index].setAttribute("aria-pressed", "true");
  state.chosen = address;
  compare(shownAt(address), shownAt(`results/${identity}/${job.guide}`));
  $("save").href = address;
  $("save").download = `${identity}_${name.replace("guide_", "")}`;
  $("save").textContent = `Save ${name.slice(name.indexOf(".") + 1).toUpperCase()}`;
  $("record").href = `results/${identity}/edit.yaml`;
}

$("use").onclick = async () => {
  try {
    const kept = maskAndScope();
    takePicture(await loadImage(shownAt(state.chosen)), state.chosen);
    if (kept.width === width && kept.height === height) mask.ctx.drawImage(kept.mask, 0, 0); // the same part again
    setScope(kept.scope);
    $("hold").checked = true; // colours drift when results are edited again
    changed();
  } catch (error) {
    notify(error.message);
  }
};

function maskAndScope() {
  const copy = layer();
  copy.canvas.width = width;
  copy.canvas.height = height;
  copy.ctx.drawImage(mask.canvas, 0, 0);
  return { width, height, scope: state.scope, mask: copy.canvas };
}

$("restore").onclick = async () => {
  const job = state.jobs.find((each) => each.identity === state.shown);
  try {
    const { kind, t0: level, seed, steps, samples, focus, windows, match_colours: hold, label, guidance } = job.settings;
    const folder = `results/${job.identity}`, address = `${folder}/${job.guide}`;
    const [picture, area] = await Promise.all(
      [shownAt(address), kind && `${folder}/${kind}.png`].map((each) => each && loadImage(each)),
    );
    takePicture(picture, address);
    if (area) setMask(area, kind);
    $("t0").value = Math.round((100 * level) / state.model.t_max);
    $("seed").value = seed;
    $("samples").value = samples;
    if (steps) $("steps").value = steps;
    setLocked(true);
    setScope(focus ? "part" : windows ? "windows" : "whole");
    $("hold").checked = !!hold;
    $("label").value = label || "";
    $("guidance").value = guidance || 1;
    $("guided").checked = guidance !== 1;
    if (Array.isArray(focus)) state.frame = { x: focus[0], y: focus[1], w: focus[2], h: focus[3] };
    changed();
  } catch (error) {
    notify(error.message);
  }
};

/* Takes the greys of a picture as the mask. */
function setMask(area, kind) {
  mask.ctx.clearRect(0, 0, width, height);
  mask.ctx.drawImage(area, 0, 0, width, height);
  const image = mask.ctx.getImageData(0, 0, width, height);
  for (let i = 0; i < image.data.length; i += 4) {
    image.data[i + 3] = image.data[i];
    image.data[i] = image.data[i + 1] = image.data[i + 2] = 255;
  }
  mask.ctx.putImageData(image, 0, 0);
  $("soft").checked = kind === "strength";
  $("feather").value = 0;
}

function showHistory() {
  $("past").hidden = !state.jobs.length;
  const shown = [...state.jobs].reverse();
  $("history").replaceChildren(...shown.map((job) => {
    const name = job.samples[0] || job.guide;
    const made = button(`thumbs/${job.identity}/${name}`, `${new Date(1000 * job.created).toLocaleString()}, t0 ${job.settings.t0}`);
    if (job.state !== "done") made.append(Object.assign(document.createElement("span"), { textContent: job.state }));
    made.firstElementChild.loading = "lazy";
    made.setAttribute("aria-pressed", String(job.identity === state.shown));
    made.onclick = () => showJob(job, 0);
    return made;
  }));
}

async function refresh() {
  const { seconds, overhead, queued, jobs } = await ask("api/state");
  Object.assign(state, { seconds, overhead, queued, jobs });
  showHistory();
  describe();
}
addEventListener("focus", () => state.model && refresh().catch(() => {}));

let noticed;
/* Shows a message until it is clicked or an edit is run; a passing one only for some seconds. */
function notify(text, passing = false) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  clearTimeout(noticed);
  if (passing) noticed = setTimeout(() => notify(""), 7000);
}
$("notice").onclick = () => notify("");

/* ---- what a reload keeps ---- */

const KEPT = ["t0", "samples", "steps", "seed", "size", "opacity", "feather", "front", "back", "label", "guidance"];
let storing;

function database() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("sdedit", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("painting");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
const blob = (canvas) => new Promise((resolve) => canvas.toBlob(resolve));

function storeSoon() {
  clearTimeout(storing);
  document.body.dataset.stored = "false";
  storing = setTimeout(store, 250);
}

async function store() {
  const painting = {
    guide: await blob(guide.canvas), base: await blob(base.canvas), mask: await blob(mask.canvas),
    frame: state.frame, scope: state.scope, locked: state.locked, soft: $("soft").checked, hold: $("hold").checked,
    guided: $("guided").checked,
    opened: state.opened, file: state.file,
    values: Object.fromEntries(KEPT.map((id) => [id, $(id).value])),
  };
  try {
    const store = (await database()).transaction("painting", "readwrite").objectStore("painting");
    store.put(painting, location.pathname);
    store.transaction.oncomplete = () => (document.body.dataset.stored = "true");
  } catch {
    notify("The browser cannot keep the painting across a reload.");
  }
}

async function restorePainting() {
  const store = (await database()).transaction("painting").objectStore("painting");
  const painting = await new Promise((resolve, reject) => {
    const request = store.get(location.pathname);
    request.onsuccess = () => resolve(request.result);
    request.onerror = reject;
  });
  if (!painting || !state.model.rule !== !painting.file) return; // painted for another kind of model
  const [picture, opened, area] = await Promise.all(
    [painting.guide, painting.base, painting.mask].map((each) => createImageBitmap(each)),
  );
  openPicture(opened, true, painting.file);
  guide.ctx.drawImage(picture, 0, 0);
  mask.ctx.drawImage(area, 0, 0);
  Object.assign(state, { touched: true, frame: painting.frame, opened: painting.opened });
  for (const [id, value] of Object.entries(painting.values)) $(id).value = value;
  $("soft").checked = painting.soft;
  $("hold").checked = !!painting.hold;
  $("guided").checked = painting.guided !== false;
  setLocked(painting.locked);
  setScope(painting.scope);
  changed(false);
}

async function start() {
  const loaded = await ask("api/state");
  const { model, guides, seconds, overhead, queued, jobs } = loaded;
  Object.assign(state, { model, seconds, overhead, queued, jobs });
  $("model").textContent = `${model.name} · ${model.width === model.height ? model.width : `${model.width} × ${model.height}`} px`;
  $("rule").textContent = model.rule;
  $("rule").hidden = !model.rule;
  $("file").accept = model.rule ? "" : "image/*";
  $("t0").value = Math.round((100 * model.t0) / model.t_max);
  $("steps").value = model.steps;
  $("labelbox").hidden = !model.known;
  $("guidedbox").hidden = model.guidance === 1;
  $("label").title = model.known;
  $("labels").replaceChildren(...model.labels.map((name) => new Option("", name)));
  $("examples").hidden = !guides.length;
  $("guides").replaceChildren(...guides.map((name) => {
    const made = button(shownAt(`guides/${name}`), name.replace(/\.\w+$/, "").replaceAll("_", " "));
    made.firstElementChild.loading = "lazy";
    const address = `guides/${name}`;
    made.onclick = () => loadImage(shownAt(address)).then((image) => takePicture(image, address), (error) => notify(error.message));
    return made;
  }));
  await blank(true);
  await restorePainting().catch(() => {});
  showHistory();
  const own = jobs.find((job) => job.identity === sessionStorage.getItem("job"));
  if (own && (own.state === "running" || own.state === "waiting")) follow(own.identity);
  $("run").disabled = false;
  describe();
  new ResizeObserver(() => fit()).observe($("stage"));
  document.body.dataset.ready = "true";
}

split();
start().catch((error) => notify(error.message));
