"use strict";
// Decodes a PNG to the pixels that the SavedModel sees. A canvas would not: it rounds the colours of transparent pixels, browsers correct
// colours and reduce 16 bits in different ways, and some change pixels on purpose, against tracking.

const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MAX_PARTS = 64; // chunks that are searched for metadata
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type: grey, RGB, palette, grey and alpha, RGB and alpha
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
// Names of chunks in the order of the standard: https://www.w3.org/TR/png-3/#5ChunkOrdering. Names of optional chunks start in lower case.
const OPTIONAL = "(?:(?!tRNS)[a-z]...)*";
const ORDER = new RegExp(`^IHDR${OPTIONAL}(?:PLTE${OPTIONAL})?(?:tRNS${OPTIONAL})?(?:IDAT)+${OPTIONAL}IEND$`, "s");
// The passes of an interlaced PNG: first column, first row, step between columns, step between rows.
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

const CHECKSUMS = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

/** Returns the CRC-32 of bytes. */
function checksum(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CHECKSUMS[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}

/** Decodes a PNG.
 *
 *  Returns width and height, `pixels`: RGB in a Uint8ClampedArray, and `exif`: the content of the chunk eXIf, or no bytes. Throws a Refusal
 *  if the PNG is animated, broken, too large, or of a kind that the SavedModel refuses.
 */
async function decodePng(bytes, maxPixels, background) {
  const broken = new Refusal("The PNG is broken: a part is missing, misplaced or has a wrong checksum.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33 || view.getUint32(8) !== 13) throw broken;
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [depth, kind, compression, filter, interlaced] = bytes.subarray(24, 29);
  if (!width || !height || !DEPTHS[kind]?.includes(depth) || compression || filter || interlaced > 1) throw broken;
  checkSize(width, height, maxPixels);
  const chunks = chunksOf(bytes, view);
  const early = chunks.slice(0, Math.min(MAX_PARTS, chunks.findIndex(({ name }) => name === "IDAT") + 1 || MAX_PARTS));
  const content = (name) => early.find((chunk) => chunk.name === name)?.content;
  if (content("acTL")) throw new Refusal("The PNG is animated; a picture must have one frame.");
  if (depth === 16 && content("tRNS")) {
    throw new Refusal("The PNG has 16 bits per channel and a transparent colour, which has no safe conversion.");
  }
  const palette = content("PLTE");
  const whole = chunks.every(({ name, content, sum }) => sum === checksum(content.named) && (name !== "PLTE" || content.length % 3 === 0));
  if (!whole || (kind === 3 && !palette) || !ORDER.test(chunks.map(({ name }) => name).join(""))) throw broken;
  const passes = (interlaced ? ADAM7 : [[0, 0, 1, 1]])
    .map(([x, y, right, down]) => ({ x, y, right, down, columns: Math.ceil((width - x) / right), rows: Math.ceil((height - y) / down) }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  const bits = depth * CHANNELS[kind];
  const lineOf = ({ columns }) => Math.ceil((columns * bits) / 8);
  const size = passes.reduce((sum, pass) => sum + pass.rows * (1 + lineOf(pass)), 0);
  const packed = chunks.filter(({ name }) => name === "IDAT").map((chunk) => chunk.content);
  const data = await inflate(packed, size).catch(() => null);
  if (!data) throw broken;

  const samples = new Uint8Array(width * height * CHANNELS[kind]);
  let at = 0;
  for (const pass of passes) {
    const line = lineOf(pass);
    let above = new Uint8Array(line);
    for (let row = 0; row < pass.rows; row++, at += line + 1) {
      const own = data.subarray(at + 1, at + 1 + line);
      if (!unfilter(data[at], own, above, Math.max(bits >> 3, 1))) throw broken;
      unpack(own, depth, samples, pass, pass.y + row * pass.down, width, CHANNELS[kind]);
      above = own;
    }
  }
  const pixels = shown(samples, kind, depth, palette, content("tRNS"), background);
  return { width, height, pixels, exif: content("eXIf") ?? new Uint8Array(0) };
}

/** Returns name, content and checksum of each complete chunk up to IEND. `content.named` are the bytes that the checksum covers. */
function chunksOf(bytes, view) {
  const chunks = [];
  for (let at = 8; at + 12 <= bytes.length && chunks.at(-1)?.name !== "IEND"; ) {
    const size = view.getUint32(at);
    const end = at + 8 + size;
    const content = bytes.subarray(at + 8, end);
    content.named = bytes.subarray(at + 4, end);
    chunks.push({ name: String.fromCharCode(...bytes.subarray(at + 4, at + 8)), content, sum: end + 4 > bytes.length ? -1 : view.getUint32(end) });
    at = end + 4;
  }
  return chunks;
}

/** Unpacks zlib data. Returns its first `size` bytes, or throws if there are fewer or they are broken. Unpacks little more than that. */
async function inflate(parts, size) {
  const found = new Uint8Array(size);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  for (let at = 0; ; ) {
    const { done, value } = await reader.read();
    if (done && at < size) throw new RangeError("too few bytes");
    if (done) return found;
    found.set(value.subarray(0, size - at), at);
    at += value.length;
    // At exactly `size` the end of the stream, with its checksum, is still to come.
    if (at > size) {
      await reader.cancel();
      return found;
    }
  }
}

/** Reverses the filter of a line in place: https://www.w3.org/TR/png-3/#9Filters. Returns false for an unknown filter. */
function unfilter(filter, line, above, distance) {
  for (let i = 0; i < line.length; i++) {
    const left = i < distance ? 0 : line[i - distance];
    if (filter === 1) line[i] += left;
    else if (filter === 2) line[i] += above[i];
    else if (filter === 3) line[i] += (left + above[i]) >> 1;
    else if (filter === 4) line[i] += nearest(left, above[i], i < distance ? 0 : above[i - distance]);
  }
  return filter <= 4;
}

/** Returns Paeth's prediction: the one of three neighbours that is nearest to left + above - corner. */
function nearest(left, above, corner) {
  const [toLeft, toAbove, toCorner] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}

/** Writes the samples of a line to their places, one byte each. Of 16 bits, the high byte counts. */
function unpack(line, depth, samples, { x, right, columns }, row, width, channels) {
  const values = columns * channels;
  for (let i = 0; i < values; i++) {
    const column = x + Math.floor(i / channels) * right;
    const value = depth < 8 ? (line[(i * depth) >> 3] >> (8 - depth - ((i * depth) & 7))) & ((1 << depth) - 1) : line[(i * depth) >> 3];
    samples[(row * width + column) * channels + (i % channels)] = value;
  }
}

/** Returns RGB pixels: samples, one byte each, in colour and over the background where they are transparent. */
function shown(samples, kind, depth, palette, transparent, background) {
  const channels = CHANNELS[kind];
  const pixels = new Uint8ClampedArray((samples.length / channels) * 3);
  const scale = kind === 3 || depth > 8 ? 1 : 255 / ((1 << depth) - 1);
  const key = transparent && kind !== 3 ? [0, 1, 2].slice(0, channels).map((i) => (transparent[2 * i] << 8) | transparent[2 * i + 1]) : null;
  for (let at = 0, to = 0; at < samples.length; at += channels, to += 3) {
    let alpha = 255;
    if (kind >= 4) alpha = samples[at + channels - 1];
    else if (kind === 3) alpha = transparent?.[samples[at]] ?? 255;
    else if (key?.every((value, i) => value === samples[at + i])) alpha = 0;
    for (let i = 0; i < 3; i++) {
      const sample = samples[channels < 3 ? at : at + i];
      const colour = kind === 3 ? (palette[3 * sample + i] ?? 0) : sample * scale;
      pixels[to + i] = Math.floor((colour * alpha + background[i] * (255 - alpha) + 127) / 255);
    }
  }
  return pixels;
}
