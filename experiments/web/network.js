// A puppet in a browser: unpacks the stored weights, generates the kernels, runs the network. No dependencies.
"use strict";
const EPSILON = 1e-5, TAPS = 9;

// The tensors of weights.bin, by name. Codes of 4 bits are two a byte, the earlier one low, in two's complement.
function unpack(buffer, tensors) {
  const view = new DataView(buffer), found = {};
  let place = 0;
  const read = {
    float32: () => view.getFloat32((place += 4) - 4, true),
    float16: () => view.getFloat16((place += 2) - 2, true),
    8: () => view.getInt8(place++),
    4: (_, i) => (view.getUint8((place += i & 1) - (i & 1)) << (i & 1 ? 24 : 28)) >> 28,
  };
  for (const { name, kind, size, channels } of tensors) {
    found[name] = Float32Array.from({ length: size }, read[kind]);
    if (!channels) continue;
    const scale = Float32Array.from({ length: channels }, read.float16);
    found[name] = found[name].map((code, i) => code * scale[i % channels]);
  }
  return found;
}

// Threefry-2x32-20 of Salmon et al. (2011): two words of 32 bits from a key and a counter.
function threefry([k0, k1], x0, x1) {
  const keys = [k0, k1, k0 ^ k1 ^ 0x1bd11bda], turns = [[13, 15, 26, 6], [17, 29, 16, 24]];
  [x0, x1] = [x0 + k0, x1 + k1];
  for (let block = 0; block < 5; block++) {
    for (const turn of turns[block % 2]) {
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << turn) | (x1 >>> (32 - turn))) ^ x0;
    }
    [x0, x1] = [(x0 + keys[(block + 1) % 3]) | 0, (x1 + keys[(block + 2) % 3] + block + 1) | 0];
  }
  return [x0, x1];
}

// The seeded pattern: each value the sum of twelve uniform integers of ten bits, less its mean, divided by 1024.
function pattern(size, key) {
  const sum = (word) => (word & 1023) + ((word >>> 10) & 1023) + ((word >>> 20) & 1023);
  const draw = (place) => [...threefry(key, place, 0), ...threefry(key, place, 1)];
  return Float32Array.from({ length: size }, (_, i) => (draw(i).reduce((all, w) => all + sum(w), 0) - 6138) / 1024);
}

// In place, for each plane: (x - mean) / sqrt(variance + epsilon) * scale.
function normalise(x, scale) {
  const size = x.length / scale.length;
  for (let c = 0; c < scale.length; c++) {
    const plane = x.subarray(c * size, (c + 1) * size);
    const mean = plane.reduce((sum, value) => sum + value, 0) / size;
    const variance = plane.reduce((sum, value) => sum + (value - mean) ** 2, 0) / size;
    const factor = scale[c] / Math.sqrt(variance + EPSILON);
    for (let i = 0; i < size; i++) plane[i] = (plane[i] - mean) * factor;
  }
}

// The vector field G of a state (C, C, 9), without the biases before its norms, which take them away with the mean.
function field(w, state, C) {
  const size = C * TAPS, x = new Float32Array(C * size), out = new Float32Array(C * size);
  for (let place = 0; place < x.length; place++) {
    const o = (place / size) | 0, row = ((place / TAPS) | 0) % C, tap = place % TAPS;
    for (let i = Math.max(-1, -row); i <= Math.min(1, C - 1 - row); i++)
      for (let j = Math.max(-1, -tap); j <= Math.min(1, TAPS - 1 - tap); j++)
        x[place] += w.depthwise_kernel[(3 * i + j + 4) * C + o] * state[place + i * TAPS + j];
  }
  normalise(x, w.norm1_scale);
  for (let p = 0; p < C; p++)
    for (let c = 0; c < C; c++)
      for (let i = 0; i < size; i++) out[p * size + i] += w.pointwise_kernel[p * C + c] * x[c * size + i];
  normalise(out, w.norm2_scale);
  return out.map((value, place) => Math.tanh(value + w.norm2_bias[(place / size) | 0]));
}

// A state (C, C, 9) averaged over bins to a kernel (outputs, inputs, 9).
function project(state, C, outputs, inputs) {
  const bin = (i, count) => [Math.floor((i * C) / count), Math.ceil(((i + 1) * C) / count)];
  return Float32Array.from({ length: outputs * inputs * TAPS }, (_, place) => {
    const [o0, o1] = bin((place / TAPS / inputs) | 0, outputs), [i0, i1] = bin(((place / TAPS) | 0) % inputs, inputs);
    let sum = 0;
    for (let o = o0; o < o1; o++) for (let i = i0; i < i1; i++) sum += state[(o * C + i) * TAPS + (place % TAPS)];
    return sum / ((o1 - o0) * (i1 - i0));
  });
}

// Every kernel (channels, inputs, 9) of the network: an Euler step each, and behind its half the mirror images.
function generate(w, { max_channels: C, h, scale, seed, kernels_from, layers }) {
  const level = Math.exp(1 - h ** -2), dl = Math.tanh(1 / h);
  let state = pattern(C * C * TAPS, seed).map((value) => scale * level * value);
  return layers.map(({ inputs, channels }, n) => {
    const velocity = field(w, state, C);
    state = state.map((value, i) => value + dl * velocity[i]);
    const half = project(kernels_from === "velocity" ? velocity : state, C, channels / 2, inputs);
    return Float32Array.from({ length: 2 * half.length }, (_, place) => {
      if (place < half.length) return half[place];
      const t = place % TAPS, i = ((place / TAPS) | 0) % inputs, twin = n ? (i + inputs / 2) % inputs : i;
      return half[place - half.length + (twin - i) * TAPS + 2 - 2 * (t % 3)];
    });
  });
}

// 3x3 convolution, norm and ReLU of planes (inputs, S, S). Sums run over whole padded planes, in long simple loops.
function layer(x, kernel, factor, shift, inputs, channels, S) {
  const P = S + 2, padded = new Float64Array(inputs * P * P), sums = new Float64Array(S * P);
  const out = new Float32Array(channels * S * S);
  for (let i = 0; i < inputs * S; i++) padded.set(x.subarray(i * S, (i + 1) * S), (i + 2 * ((i / S) | 0) + 1) * P + 1);
  for (let o = 0; o < channels; o++) {
    sums.fill(0);
    for (let k = 0; k < inputs * TAPS; k += 3) {
      const [a, b, c] = kernel.subarray(o * inputs * TAPS + k), first = ((k / TAPS) | 0) * P * P + ((k % TAPS) / 3) * P;
      for (let p = first, q = 0; q < S * P - 2; p++) sums[q++] += a * padded[p] + b * padded[p + 1] + c * padded[p + 2];
    }
    for (let p = 0, twin = o % factor.length; p < S * S; p++)
      out[o * S * S + p] = Math.max(0, sums[p + 2 * ((p / S) | 0)] * factor[twin] + shift[twin]);
  }
  return out;
}

// The maxima of squares of 2x2.
function pool(x, S) {
  return Float32Array.from({ length: x.length / 4 }, (_, p) => {
    const at = 2 * S * Math.floor((2 * p) / S) + ((2 * p) % S);
    return Math.max(x[at], x[at + 1], x[at + S], x[at + S + 1]);
  });
}

// Logits of an image: red, green, blue and 255 of each pixel, row by row.
function classify(w, { size, layers, class_names }, kernels, pixels) {
  const value = (_, i) => pixels[4 * (i % size ** 2) + ((i / size ** 2) | 0)] * (4 / 255) - 2;
  let S = size, x = Float32Array.from({ length: 3 * S * S }, value);
  layers.forEach(({ inputs, channels, pooled, added }, n) => {
    if (pooled) [x, S] = [pool(x, S), S / 2];
    const y = layer(x, kernels[n], w[`factor.${n}`], w[`shift.${n}`], inputs, channels, S);
    x = added ? y.map((value, i) => value + x[i]) : y;
  });
  const half = x.length / 2, features = new Float32Array(half / (S * S));
  for (let i = 0; i < half; i++) features[(i / (S * S)) | 0] += (x[i] + x[half + i]) / (2 * S * S);
  const term = (c, k) => features[c] * w.classifier_kernel[c * class_names.length + k];
  return class_names.map((_, k) => features.reduce((sum, _, c) => sum + term(c, k), w.classifier_bias[k]));
}
