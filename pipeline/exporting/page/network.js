"use strict";
// Runs the model: a list of steps (pipeline/exporting/program.py) on float64 arrays, for one picture at a time.
//
// All shapes are known, so each step is prepared once: its arrays and its indices are made when the page opens. Float64 because it is what
// JavaScript computes with: float32 would be rounded after each operation, which takes twice as long here, and be less exact.

const count = (shape) => shape.reduce((product, size) => product * size, 1);

function stridesOf(shape) {
  return shape.map((_, axis) => count(shape.slice(axis + 1)));
}

/** Returns the place in an array of each element of a block, in order. */
function places(shape, strides, start = 0) {
  let found = [start];
  shape.forEach((size, axis) => {
    found = found.flatMap((place) => Array.from({ length: size }, (_, i) => place + i * strides[axis]));
  });
  return Int32Array.from(found);
}

/** Returns the strides with which an array of `shape` is read as one of the shape `wide`: numpy's rule for arrays of different shapes. */
function stretched(shape, wide) {
  const strides = stridesOf(shape).map((stride, axis) => (shape[axis] === 1 ? 0 : stride));
  return [...Array(wide.length - shape.length).fill(0), ...strides];
}

/** Returns the sizes before, of and after an axis. */
function around(shape, axis) {
  return [count(shape.slice(0, axis)), shape[axis], count(shape.slice(axis + 1))];
}

/** Returns the places in the two inputs of a step that belong to each element of its output. */
function matched(step) {
  return step.shapes.map((shape) => places(step.shape, stretched(shape, step.shape)));
}

function gather(from) {
  return ([x], out) => () => {
    for (let i = 0; i < out.length; i++) out[i] = x[from[i]];
  };
}

/** Each kernel prepares a step: it gets the step, its input arrays and its output array, and returns the function that computes it. */
const KERNELS = {
  // One loop for each operation: V8 makes fast code of a loop that always does the same.
  Relu(step, [x], out) {
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = Math.max(x[i], 0);
    };
  },

  Tanh(step, [x], out) {
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = Math.tanh(x[i]);
    };
  },

  Add(step, [a, b], out) {
    const [left, right] = matched(step);
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = a[left[i]] + b[right[i]];
    };
  },

  Sub(step, [a, b], out) {
    const [left, right] = matched(step);
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = a[left[i]] - b[right[i]];
    };
  },

  Mul(step, [a, b], out) {
    const [left, right] = matched(step);
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = a[left[i]] * b[right[i]];
    };
  },

  Div(step, [a, b], out) {
    const [left, right] = matched(step);
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = a[left[i]] / b[right[i]];
    };
  },

  Transpose(step, inputs, out) {
    const strides = stridesOf(step.shapes[0]);
    return gather(places(step.shape, step.perm.map((axis) => strides[axis])))(inputs, out);
  },

  Slice(step, inputs, out) {
    const strides = stridesOf(step.shapes[0]);
    const start = strides.reduce((sum, stride, axis) => sum + stride * step.starts[axis], 0);
    return gather(places(step.shape, strides, start))(inputs, out);
  },

  Pad(step, [x], out) {
    // What surrounds the input is never written to and stays 0.
    const strides = stridesOf(step.shape);
    const to = places(step.shapes[0], strides, strides.reduce((sum, stride, axis) => sum + stride * step.pads[axis], 0));
    return () => {
      for (let i = 0; i < to.length; i++) out[to[i]] = x[i];
    };
  },

  Softmax(step, [x], out) {
    const [before, size, after] = around(step.shape, step.axis);
    return () => {
      for (let i = 0; i < before * after; i++) {
        const start = Math.floor(i / after) * size * after + (i % after);
        const end = start + size * after;
        let largest = -Infinity;
        for (let at = start; at < end; at += after) largest = Math.max(largest, x[at]);
        let sum = 0;
        for (let at = start; at < end; at += after) sum += out[at] = Math.exp(x[at] - largest);
        for (let at = start; at < end; at += after) out[at] /= sum;
      }
    };
  },

  ReduceSum(step, [x], out) {
    const [before, size, after] = around(step.shapes[0], step.axis);
    return () => {
      for (let i = 0; i < before * after; i++) {
        const start = Math.floor(i / after) * size * after + (i % after);
        let sum = 0;
        for (let j = 0; j < size; j++) sum += x[start + j * after];
        out[i] = sum;
      }
    };
  },

  MaxPool(step, [x], out) {
    // The windows start at the first pixel and do not overlap: see program.py.
    const [, channels, height, width] = step.shapes[0];
    const [, , rows, columns] = step.shape;
    const [tall, wide] = step.kernel;
    return () => {
      out.fill(-Infinity);
      for (let line = 0; line < channels * height; line++) {
        const row = Math.floor((line % height) / tall);
        let to = (Math.floor(line / height) * rows + row) * columns;
        for (let i = line * width, end = i + width; i < end; to++) {
          for (const last = Math.min(i + wide, end); i < last; i++) out[to] = Math.max(out[to], x[i]);
        }
      }
    };
  },

  MatMul(step, [a, b], out) {
    const [left, right] = step.shapes;
    const size = left.at(-1);
    const columns = right.at(-1);
    const rows = count(step.shape) / columns;
    // One matrix on the right for all rows, or one for each matrix on the left.
    const perMatrix = count(right.slice(0, -2)) === 1 ? rows : left.at(-2);
    return () => {
      out.fill(0);
      for (let row = 0; row < rows; row++) {
        const matrix = Math.floor(row / perMatrix) * size * columns;
        const to = row * columns;
        let i = 0;
        // Four rows of the second matrix at a time, so that each sum is loaded and stored less often.
        for (; i + BLOCK <= size; i += BLOCK) {
          const at = row * size + i;
          const a0 = a[at], a1 = a[at + 1], a2 = a[at + 2], a3 = a[at + 3];
          for (let j = to, k = matrix + i * columns; j < to + columns; j++, k++) {
            out[j] += a0 * b[k] + a1 * b[k + columns] + a2 * b[k + 2 * columns] + a3 * b[k + 3 * columns];
          }
        }
        for (; i < size; i++) {
          const factor = a[row * size + i];
          for (let j = to, k = matrix + i * columns; j < to + columns; j++, k++) out[j] += factor * b[k];
        }
      }
    };
  },

  Conv: winograd,
};

/** Returns the function that runs a program: from pixels, uint8 [height, width, channels], to the last step's output.
 *
 *  `weights` are the float32 constants, one after the other; see program.py.
 */
function prepare(program, weights) {
  const arrays = {};
  const shapes = {};
  for (const { name, shape, start } of program.constants) {
    arrays[name] = Float64Array.from(weights.subarray(start, start + count(shape)));
    shapes[name] = shape;
  }
  const input = (arrays[program.input.name] = new Float64Array(count(program.input.shape)));
  shapes[program.input.name] = program.input.shape;
  const calls = [];
  for (const step of program.steps) {
    shapes[step.output] = step.shape;
    if (step.op === "Reshape") {
      arrays[step.output] = arrays[step.inputs[0]];
      continue;
    }
    const out = (arrays[step.output] = new Float64Array(count(step.shape)));
    const given = step.inputs.map((name) => arrays[name]);
    calls.push(KERNELS[step.op]({ ...step, shapes: step.inputs.map((name) => shapes[name]) }, given, out));
  }
  return (pixels) => {
    input.set(pixels);
    for (const call of calls) call();
    return arrays[program.output];
  };
}
