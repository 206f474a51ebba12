"use strict";
// The convolution of 3x3 kernels, which takes most of the time of a reading.

const BLOCK = 4; // the matrix product computes blocks of 4x4 numbers, which stay in the registers of a processor
const TILE = 6; // outputs per side of a tile of Winograd's convolution
const SPAN = TILE + 2; // inputs per side of a tile
const LINE = 8; // numbers in a line of a processor's cache: between arrays, so that they do not push each other out of it

const upTo = (size, block) => Math.ceil(size / block) * block;

/** Copies pictures, [channels, height, width], into the middle of larger ones; what surrounds them stays 0. */
function framed([channels, height, width], rows, columns, top, left) {
  const frame = new Float64Array(channels * rows * columns);
  const lines = channels * height;
  return [
    frame,
    (x) => {
      for (let line = 0; line < lines; line++) {
        const to = (Math.floor(line / height) * rows + top + (line % height)) * columns + left;
        for (let i = 0; i < width; i++) frame[to + i] = x[line * width + i];
      }
    },
  ];
}

/** Returns a matrix as `multiply` wants its first one: groups of four rows, each group column by column. */
function packed(rows, columns, at) {
  const groups = new Float64Array(upTo(rows, BLOCK) * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      groups[(Math.floor(row / BLOCK) * columns + column) * BLOCK + (row % BLOCK)] = at(row, column);
    }
  }
  return groups;
}

/** Convolves kernels of 3x3 with stride 1 by tiles of 6x6 outputs, with a fifth of the multiplications.
 *
 *  Winograd's minimal filtering F(6x6, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4. If there
 *  is one row of outputs, as of a kernel over the whole height, the tiles are 1x6, and the rows of a picture are like further channels.
 */
function winograd(step, [x, weights, bias], out) {
  const [, given, height, width] = step.shapes[0];
  const [outputs, , tall] = step.shapes[1];
  const [, , rows, columns] = step.shape;
  const [top, left] = step.pads;
  const flat = rows === 1;
  const [down, across] = [Math.ceil(rows / TILE), Math.ceil(columns / TILE)];
  const frameColumns = across * TILE + 2;
  const [frame, fill] = framed([given, height, width], flat ? tall : down * TILE + 2, frameColumns, top, left);
  const [channels, frameRows] = flat ? [given * tall, 1] : [given, down * TILE + 2];
  const tiles = upTo(down * across, BLOCK);
  const kinds = upTo(outputs, BLOCK);
  const kernels = kernelFrequencies(weights, outputs, channels, flat);
  const [apart, between] = [tiles * channels + LINE, kinds * tiles + LINE];
  const seen = new Float64Array(kernels.length * apart);
  const product = new Float64Array(kernels.length * between);
  const least = step.relu ? 0 : -Infinity;
  const half = new Float64Array(SPAN * SPAN);
  const tile = new Float64Array(TILE * TILE);
  return () => {
    fill(x);
    for (let channel = 0; channel < channels; channel++) {
      for (let number = 0; number < down * across; number++) {
        const start = (channel * frameRows + Math.floor(number / across) * TILE) * frameColumns + (number % across) * TILE;
        const to = (Math.floor(number / BLOCK) * channels + channel) * BLOCK + (number % BLOCK);
        if (flat) {
          intoFrequencies(frame, start, 1, seen, to, apart);
        } else {
          for (let row = 0; row < SPAN; row++) intoFrequencies(frame, start + row * frameColumns, 1, half, row * SPAN, 1);
          for (let i = 0; i < SPAN; i++) intoFrequencies(half, i, SPAN, seen, to + i * apart, SPAN * apart);
        }
      }
    }
    kernels.forEach((kernel, i) => multiply(kernel, seen, i * apart, product, i * between, kinds, channels, tiles));
    for (let output = 0; output < outputs; output++) {
      for (let number = 0; number < down * across; number++) {
        const from = output * tiles + number;
        if (flat) {
          outOfFrequencies(product, from, between, tile, 0, 1);
        } else {
          for (let i = 0; i < SPAN; i++) outOfFrequencies(product, from + i * between, SPAN * between, half, i, SPAN);
          for (let i = 0; i < TILE; i++) outOfFrequencies(half, i * SPAN, 1, tile, i * TILE, 1);
        }
        const row = Math.floor(number / across) * TILE;
        const column = (number % across) * TILE;
        const [lastRow, lastColumn] = [Math.min(TILE, rows - row), Math.min(TILE, columns - column)];
        for (let y = 0; y < lastRow; y++) {
          const to = (output * rows + row + y) * columns + column;
          for (let i = 0; i < lastColumn; i++) out[to + i] = Math.max(tile[y * TILE + i] + bias[output], least);
        }
      }
    }
  };
}

function intoFrequencies(x, from, step, out, to, apart) {
  const a = x[from], b = x[from + step], c = x[from + 2 * step], d = x[from + 3 * step];
  const e = x[from + 4 * step], f = x[from + 5 * step], g = x[from + 6 * step], h = x[from + 7 * step];
  let even = c + g - 4.25 * e;
  let odd = b + f - 4.25 * d;
  out[to] = a - g + 5.25 * (e - c);
  out[to + apart] = even + odd;
  out[to + 2 * apart] = even - odd;
  even = g + 0.25 * c - 1.25 * e;
  odd = 0.5 * b - 2.5 * d + 2 * f;
  out[to + 3 * apart] = even + odd;
  out[to + 4 * apart] = even - odd;
  even = g + 4 * c - 5 * e;
  odd = 2 * b - 2.5 * d + 0.5 * f;
  out[to + 5 * apart] = even + odd;
  out[to + 6 * apart] = even - odd;
  out[to + 7 * apart] = h - b + 5.25 * (d - f);
}

function outOfFrequencies(x, from, step, out, to, apart) {
  const a = x[from], b = x[from + step], c = x[from + 2 * step], d = x[from + 3 * step];
  const e = x[from + 4 * step], f = x[from + 5 * step], g = x[from + 6 * step], h = x[from + 7 * step];
  const [s, t] = [b + c, b - c];
  const [u, v] = [d + e, d - e];
  const [w, z] = [f + g, f - g];
  out[to] = a + s + u + w;
  out[to + apart] = t + 2 * v + 0.5 * z;
  out[to + 2 * apart] = s + 4 * u + 0.25 * w;
  out[to + 3 * apart] = t + 8 * v + 0.125 * z;
  out[to + 4 * apart] = s + 16 * u + 0.0625 * w;
  out[to + 5 * apart] = t + 32 * v + 0.03125 * z + h;
}

const KERNEL_FREQUENCIES = [
  [1, 0, 0],
  [-2 / 9, -2 / 9, -2 / 9],
  [-2 / 9, 2 / 9, -2 / 9],
  [1 / 90, 1 / 45, 2 / 45],
  [1 / 90, -1 / 45, 2 / 45],
  [32 / 45, 16 / 45, 8 / 45],
  [32 / 45, -16 / 45, 8 / 45],
  [0, 0, 1],
];

/** Returns kernels, [outputs, channels, 3, 3], or [outputs, channels, 1, 3] if `flat`, by frequency, as `multiply` wants its first matrix. */
function kernelFrequencies(weights, outputs, channels, flat) {
  const vertical = flat ? [[1]] : KERNEL_FREQUENCIES;
  const tall = vertical[0].length;
  return vertical.flatMap((down) =>
    KERNEL_FREQUENCIES.map((across) =>
      packed(outputs, channels, (output, channel) => {
        let sum = 0;
        for (let y = 0; y < tall; y++) {
          const at = ((output * channels + channel) * tall + y) * 3;
          sum += down[y] * (across[0] * weights[at] + across[1] * weights[at + 1] + across[2] * weights[at + 2]);
        }
        return sum;
      }),
    ),
  );
}

/** Writes the product of two matrices, [rows, size] and [size, columns], row by row. Rows and columns are multiples of four.
 *
 *  The first is in groups of four rows, the second in groups of four columns, so that the inner loop reads both in order.
 */
function multiply(a, b, from, out, to, rows, size, columns) {
  for (let row = 0; row < rows; row += BLOCK) {
    for (let column = 0; column < columns; column += BLOCK) {
      let [i, j] = [row * size, from + column * size];
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (const end = i + size * BLOCK; i < end; i += BLOCK, j += BLOCK) {
        const b0 = b[j], b1 = b[j + 1], b2 = b[j + 2], b3 = b[j + 3];
        const a0 = a[i], a1 = a[i + 1], a2 = a[i + 2], a3 = a[i + 3];
        s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
        s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
        s20 += a2 * b0; s21 += a2 * b1; s22 += a2 * b2; s23 += a2 * b3;
        s30 += a3 * b0; s31 += a3 * b1; s32 += a3 * b2; s33 += a3 * b3;
      }
      let at = to + row * columns + column;
      out[at] = s00; out[at + 1] = s01; out[at + 2] = s02; out[at + 3] = s03;
      at += columns;
      out[at] = s10; out[at + 1] = s11; out[at + 2] = s12; out[at + 3] = s13;
      at += columns;
      out[at] = s20; out[at + 1] = s21; out[at + 2] = s22; out[at + 3] = s23;
      at += columns;
      out[at] = s30; out[at + 1] = s31; out[at + 2] = s32; out[at + 3] = s33;
    }
  }
}
