"""Names of the features, files and folders that the steps hand to each other. No other module spells them."""

from typing import Final

SPLITS: Final = ("train", "eval", "test")

# The canonical tf.Example, as written by `data synth` and `data import`.
IMAGE: Final = "image"  # bytes[1]: an encoded picture (PNG, JPEG, …)
LABEL: Final = "label"  # bytes[1]: the text on it, UTF-8
SOURCE: Final = "source"  # bytes[1]: where it comes from: "synthetic", or the name of an imported set
PARAMS: Final = "params"  # bytes[1]: how it was made, a JSON object; "{}" where unknown

# What CaptchaExampleGen adds. Pixel values are 0 to 255, over all pixels and channels of the picture.
CHARACTERS: Final = "characters"  # bytes[min_length..max_length]: the label, one character a value
WIDTH: Final = "width"  # int64[1]: pixels
HEIGHT: Final = "height"  # int64[1]: pixels
BRIGHTNESS: Final = "brightness"  # float32[1]: mean of the pixel values
CONTRAST: Final = "contrast"  # float32[1]: standard deviation of the pixel values
SHARPNESS: Final = "sharpness"  # float32[1]: mean absolute difference of neighbouring pixels in a row
DIFFICULTY: Final = "difficulty"  # bytes[1]: "low contrast", "medium contrast" or "high contrast"
SPAN: Final = "span"  # bytes[1]: the span that it comes from, such as "span-000001"

# Custom properties of artifacts.
WINDOW: Final = "window"  # of examples, raw and transformed: the digest of the window of spans that they come from
RECIPE: Final = "recipe"  # of a fitted model, and of the baseline that was found for it: see components/base/recipe.py
FINGERPRINT: Final = "fingerprint"  # of a fitted model, and of the model in production: likewise
WARM_START: Final = "warm_start"  # of a fitted model: whether its fit went on from the model in production
BASE_PROBLEM: Final = "base_problem"  # of a fitted model: why it could not, or only in part; "" for no reason

# What Transform emits.
PIXELS: Final = "pixels"  # bytes[1]: height x width x channels uint8, row-major
PIXEL_MEAN: Final = "pixel_mean"  # float32[1]: of the training split, the same for every example
PIXEL_STD: Final = "pixel_std"  # float32[1]: likewise
LABEL_IDS: Final = "label_ids"  # int64[max_length]: class ids, padded with the blank class

# What the served model answers with.
TEXT: Final = "text"  # string [N]; "" for a picture that could not be read
PROBABILITIES: Final = "probabilities"  # float32 [N, max_length, num_classes]
CONFIDENCE: Final = "confidence"  # float32 [N]: the probability of TEXT: components/evaluation/metrics.py; 0 for a bad picture
VALID: Final = "valid"  # bool [N]: false for a picture that could not be decoded, or is refused

# Files.
MANIFEST: Final = "manifest.json"  # of a span
DATA_INFO: Final = "data_info.csv"  # describes the legacy layout
HISTORY_FILE: Final = "history.json"  # of a fit: a row an epoch
SUMMARY_FILE: Final = "summary.json"  # of a quarantine
PROFILES_FILE: Final = "profiles.json"  # of the spans that were read: components/data/drift.py
DRIFT_FILE: Final = "drift.json"  # how far the newest span is from the others
JUDGEMENT_FILE: Final = "judgement.json"  # of a model, beside its figures
GOLDEN_FILE: Final = "golden.json"  # beside a blessing: how the model reads the golden set; beside the model in production: the best so far
SPEC_FILE: Final = "captcha.json"  # in a SavedModel's assets.extra: what the model reads, and what it was made from
SERVABLE: Final = "servable"  # in SPEC_FILE: true; missing in models of earlier releases, which no server but Python's can use
WRONG_SIZE: Final = "wrong_size"  # in SPEC_FILE: "resize" or "refuse"; missing in models of earlier releases, which resize
WEIGHTS_FILE: Final = "model.weights.h5"  # in a SavedModel's assets.extra: for a warm start
