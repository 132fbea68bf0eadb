// What the page does: fetches the weights, takes a picture, shows the answer. MODEL is in model.js.
"use strict";
const MEGABYTES = 20, MEGAPIXELS = 40, at = (id) => document.getElementById(id);
const say = (text) => (at("said").textContent = text);

// Lanczos along rows of `length` pixels, rounded as Pillow does; the rows of the result are the columns.
function resize(source, rows, length, size) {
  const out = new Uint8ClampedArray(4 * rows * size), scale = length / size, stretch = Math.max(scale, 1);
  const sinc = (x) => (x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1);
  for (let i = 0; i < size; i++) {
    const centre = (i + 0.5) * scale, first = Math.max(0, Math.floor(centre - 3 * stretch + 0.5));
    const last = Math.min(length, Math.floor(centre + 3 * stretch + 0.5));
    const offsets = Array.from({ length: last - first }, (_, k) => (first + k + 0.5 - centre) / stretch);
    const weights = offsets.map((x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0));
    const total = weights.reduce((sum, w) => sum + w), fixed = weights.map((w) => Math.round((w / total) * 2 ** 22));
    for (let j = 0; j < 4 * rows; j++) {
      const from = 4 * ((j >> 2) * length + first) + (j & 3), sum = (all, w, k) => all + w * source[from + 4 * k];
      out[4 * i * rows + j] = Math.floor(0.5 + fixed.reduce(sum, 0) / 2 ** 22);
    }
  }
  return out;
}

// The pixels of a picture file in the size of the model's images, black behind what is transparent.
async function read(file) {
  if (file.size > MEGABYTES * 1e6) throw Error(`${file.name} is larger than ${MEGABYTES} MB.`);
  const unreadable = () => Promise.reject(Error(`${file.name} is damaged or no image that this browser reads.`));
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(unreadable);
  const { width, height } = bitmap, context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false });
  if (width * height > MEGAPIXELS * 1e6) throw Error(`${file.name} has more than ${MEGAPIXELS} million pixels.`);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height), size = MODEL.size;
  return resize(resize(data, height, width, size), size, height, size);
}

async function show(file, logits) {
  const pixels = await read(file), found = logits(pixels), odds = found.map((x) => Math.exp(x - Math.max(...found)));
  const total = odds.reduce((sum, x) => sum + x), order = [...odds.keys()].sort((a, b) => odds[b] - odds[a]);
  at("picture").width = at("picture").height = MODEL.size;
  at("picture").getContext("2d").putImageData(new ImageData(pixels, MODEL.size), 0, 0);
  at("answer").replaceChildren(...order.map((k) => {
    const row = at("row").content.cloneNode(true), [name, number, meter] = row.querySelectorAll("th, td:empty, meter");
    [name.textContent, number.textContent] = [MODEL.class_names[k], `${((100 * odds[k]) / total).toFixed(1)} %`];
    meter.value = odds[k] / total;
    return row;
  }));
}

fetch("weights.bin").then((response) => response.arrayBuffer()).then((buffer) => {
  const began = performance.now(), weights = unpack(buffer, MODEL.tensors), kernels = generate(weights, MODEL);
  const time = performance.now() - began, count = kernels.reduce((sum, kernel) => sum + kernel.length / 2, 0);
  const ready = `${buffer.byteLength} bytes became ${count} weights, each used mirrored too, in ${time.toFixed()} ms.`;
  window.logits = (pixels) => classify(weights, MODEL, kernels, pixels);
  const take = ([file]) => file && show(file, window.logits).then(() => say(ready), (error) => say(error.message));
  at("file").addEventListener("change", (event) => take(event.target.files));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => (event.preventDefault(), take(event.dataTransfer.files)));
  say(ready);
}).catch((error) => say(`This browser, or a page that no server has sent, will not do: ${error.message}.`));
