"use strict";
// From the bytes of a file to the pixels that the model gets, by the rules of the SavedModel (components/data/decoding.py).

/** A picture that is not read. The message is for the user. */
class Refusal extends Error {}

const LUMA = [19595, 38470, 7471]; // ITU-R 601 in units of 1/65536
const ORIENTATION_TAG = 274;

/** Returns the pixels of a PNG or JPEG, Uint8ClampedArray [height, width, channels]. Throws a Refusal. */
async function pixelsOf(bytes, rules) {
  let picture = await visible(bytes, rules);
  const same = picture.width === rules.width && picture.height === rules.height;
  if (!same && rules.wrong_size === "refuse") {
    throw new Refusal(`The picture is ${picture.width} × ${picture.height} pixels, not ${rules.width} × ${rules.height}.`);
  }
  if (rules.channels === 1) picture = grey(picture);
  if (same) return picture.pixels;
  return (rules.fit === "pad" ? pad : resize)({ channels: 3, ...picture }, rules.height, rules.width);
}

async function visible(bytes, { max_pixels: maxPixels, background }) {
  if (PNG_SIGNATURE.every((byte, i) => bytes[i] === byte)) {
    const picture = await decodePng(bytes, maxPixels, background);
    return turned(picture, orientation(picture.exif));
  }
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return decodeJpeg(bytes, maxPixels);
  throw new Refusal(bytes.length ? "The file is neither a PNG nor a JPEG." : "The file is empty.");
}

function checkSize(width, height, maxPixels) {
  if (width * height > maxPixels) {
    throw new Refusal(`The picture is ${width} × ${height} pixels. The limit is ${maxPixels.toLocaleString("en")} pixels.`);
  }
}

/** Decodes a JPEG as the browser does, turned by its EXIF orientation. Browsers differ slightly. */
async function decodeJpeg(bytes, maxPixels) {
  const broken = new Refusal("The JPEG is broken.");
  const header = jpegHeader(bytes);
  if (!header) throw broken;
  checkSize(header.width, header.height, maxPixels);
  if (header.components === 4) throw new Refusal("The JPEG is in CMYK, which programs convert in different ways. Save it in RGB.");
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const image = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }), options).catch(() => null);
  if (!image) throw broken;
  const { width, height } = image;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  image.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8ClampedArray(width * height * 3);
  for (let at = 0, to = 0; to < pixels.length; at += 4, to += 3) pixels.set(data.subarray(at, at + 3), to);
  return { width, height, pixels };
}

/** Returns width, height and the number of components of a JPEG; null if it has no frame or no end. */
function jpegHeader(bytes) {
  let frame = null;
  for (let at = 2; at + 1 < bytes.length; at++) {
    const marker = bytes[at + 1];
    // All other bytes are pixel data, whose markers have no length.
    if (bytes[at] !== 0xff || marker < 2 || (marker > 0xcf && marker < 0xd8) || marker === 0xff) continue;
    if (marker === 0xd9) return frame;
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame && !frame && at + 9 < bytes.length) {
      frame = { height: bytes[at + 5] * 256 + bytes[at + 6], width: bytes[at + 7] * 256 + bytes[at + 8], components: bytes[at + 9] };
    }
    at += 1 + bytes[at + 2] * 256 + bytes[at + 3];
  }
  return null;
}

/** Returns the orientation in EXIF data, 1 to 8; 1 if there is none (CIPA DC-008, section 4.6.4). */
function orientation(exif) {
  const head = String.fromCharCode(...exif.subarray(0, 4));
  if (head !== "II*\0" && head !== "MM\0*") return 1;
  const little = head === "II*\0";
  const number = (at, size) => {
    const digits = Array.from({ length: size }, (_, i) => exif[at + i] ?? 0);
    return (little ? digits.reverse() : digits).reduce((sum, digit) => sum * 256 + digit, 0);
  };
  const first = number(4, 4) + 2;
  const last = Math.min(first + 12 * number(first - 2, 2), exif.length - 11);
  for (let entry = first; entry < last; entry += 12) {
    if (number(entry, 2) === ORIENTATION_TAG) {
      const value = number(entry + 8, 2);
      return number(entry + 2, 2) === 3 && number(entry + 4, 4) === 1 && value >= 1 && value <= 8 ? value : 1;
    }
  }
  return 1;
}

/** Returns an RGB picture upright: the orientation says on which sides the first stored row and column are. */
function turned({ width, height, pixels }, orientation) {
  if (orientation === 1) return { width, height, pixels };
  const [columns, rows] = orientation >= 5 ? [height, width] : [width, height];
  const upside = [3, 4, 7, 8].includes(orientation);
  const mirrored = [2, 3, 6, 7].includes(orientation);
  const found = new Uint8ClampedArray(pixels.length);
  for (let y = 0, to = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, to += 3) {
      const [row, column] = [upside ? rows - 1 - y : y, mirrored ? columns - 1 - x : x];
      const from = 3 * (orientation >= 5 ? column * width + row : row * width + column);
      found.set(pixels.subarray(from, from + 3), to);
    }
  }
  return { width: columns, height: rows, pixels: found };
}

function grey({ width, height, pixels }) {
  const found = new Uint8ClampedArray(width * height);
  for (let to = 0, at = 0; to < found.length; to++, at += 3) {
    found[to] = (pixels[at] * LUMA[0] + pixels[at + 1] * LUMA[1] + pixels[at + 2] * LUMA[2] + 32768) >> 16;
  }
  return { width, height, channels: 1, pixels: found };
}

/** Resizes to the largest size with the same aspect ratio and centres the picture. The margins have the mean colour of its border. */
function pad(picture, height, width) {
  const { channels } = picture;
  const fitted = (own, other, limit, target) => Math.min(Math.max(Math.floor((2 * own * target + other) / (2 * other)), 1), limit);
  const rows = fitted(picture.height, picture.width, height, width);
  const columns = fitted(picture.width, picture.height, width, height);
  const inner = resize(picture, rows, columns);
  const sums = new Array(channels).fill(0);
  const add = (row, column) => sums.forEach((_, i) => (sums[i] += inner[(row * columns + column) * channels + i]));
  for (let column = 0; column < columns; column++) [0, rows - 1].forEach((row) => add(row, column));
  for (let row = 0; row < rows; row++) [0, columns - 1].forEach((column) => add(row, column));
  // The clamped array rounds halves to even, like TensorFlow.
  const colour = Uint8ClampedArray.from(sums, (sum) => Math.fround(sum / (2 * (rows + columns))));
  const found = new Uint8ClampedArray(height * width * channels).map((_, i) => colour[i % channels]);
  const [above, before] = [(height - rows) >> 1, (width - columns) >> 1];
  for (let row = 0; row < rows; row++) {
    const line = inner.subarray(row * columns * channels, (row + 1) * columns * channels);
    found.set(line, ((above + row) * width + before) * channels);
  }
  return found;
}

/** Resizes bilinearly with antialiasing, as tf.image.resize does: its operation ScaleAndTranslate, with the same roundings to float32.
 *
 *  https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/kernels/image/scale_and_translate_op.cc
 */
function resize({ width, height, channels, pixels }, rows, columns) {
  const tall = weighted(pixels, 1, height, rows, width * channels);
  // Uint8ClampedArray rounds halves to even and limits to 0 to 255.
  return Uint8ClampedArray.from(weighted(tall, rows, width, columns, channels));
}

/** Resizes the middle axis of an array [before, size, after] to `target`; returns a Float32Array. */
function weighted(values, before, size, target, after) {
  const found = new Float32Array(before * target * after);
  spans(size, target).forEach(({ start, weights }, place) => {
    for (let part = 0; part < before; part++) {
      const to = (part * target + place) * after;
      weights.forEach((weight, i) => {
        const from = (part * size + start + i) * after;
        for (let k = 0; k < after; k++) found[to + k] += Math.fround(values[from + k] * weight);
      });
    }
  });
  return found;
}

/** Returns for each of `target` places the first of `size` places that it is made of, and the weights of that and the next ones. */
function spans(size, target) {
  const f = Math.fround;
  const step = f(1 / f(target / size));
  const reach = Math.max(step, 1);
  const narrowing = f(1 / reach);
  const inside = (place) => Math.min(Math.max(place, 0), size - 1);
  return Array.from({ length: target }, (_, place) => {
    const centre = f(f(place + 0.5) * step);
    if (centre > size) return { start: 0, weights: [] };
    const start = inside(Math.ceil(f(f(centre - reach) - 0.5)));
    const end = inside(Math.floor(f(f(centre + reach) - 0.5))) + 1;
    const weights = Array.from({ length: end - start }, (_, i) => {
      const distance = Math.abs(f(f(start + i + 0.5 - centre) * narrowing));
      return distance < 1 ? f(1 - distance) : 0;
    });
    const share = f(1 / weights.reduce((sum, weight) => f(sum + weight), 0));
    return { start, weights: weights.map((weight) => f(weight * share)) };
  });
}
