"""Names of the features, files and folders that steps exchange. No other module spells them out."""

from typing import Final

SPLITS: Final = ("train", "eval", "test")

# Features of the canonical tf.Example, as written by `data synth` and `data import`.
IMAGE: Final = "image"  # bytes[1]: an encoded picture (PNG, JPEG, …)
LABEL: Final = "label"  # bytes[1]: the text in the picture, UTF-8
SOURCE: Final = "source"  # bytes[1]: the origin: DRAWN, PSEUDO, or the name of an imported set
PARAMS: Final = "params"  # bytes[1]: how the picture was made, as a JSON object; "{}" if unknown

# Sources of spans that the pipeline makes itself, which no import may use.
DRAWN: Final = "synthetic"  # drawn pictures; beside pictures that people have labelled, they only train models
PSEUDO: Final = "pseudo"  # labels that models have given; these pictures only train models
CORRECTIONS: Final = "corrections"  # corrected labels; the records keep their own sources

# Features that CaptchaExampleGen adds. Pixel values are 0 to 255; their statistics cover all pixels and channels of the picture.
CHARACTERS: Final = "characters"  # bytes[min_length..max_length]: the label, one character per value
WIDTH: Final = "width"  # int64[1]: pixels
HEIGHT: Final = "height"  # int64[1]: pixels
BRIGHTNESS: Final = "brightness"  # float32[1]: mean of the pixel values
CONTRAST: Final = "contrast"  # float32[1]: standard deviation of the pixel values
SHARPNESS: Final = "sharpness"  # float32[1]: mean absolute difference of neighbouring pixels in a row
DIFFICULTY: Final = "difficulty"  # bytes[1]: "low contrast", "medium contrast" or "high contrast"
SPAN: Final = "span"  # bytes[1]: the name of the record's span, such as "span-000001"

# Custom properties of artifacts.
WINDOW: Final = "window"  # of raw and transformed examples: the digest of their window of spans
RECIPE: Final = "recipe"  # of a trained model, and of the baseline chosen for it: see components/base/recipe.py
FINGERPRINT: Final = "fingerprint"  # of a trained model, and of the production model: see components/base/recipe.py
WARM_START: Final = "warm_start"  # of a trained model: whether training started from the production model
BASE_PROBLEM: Final = "base_problem"  # of a trained model: why a warm start was impossible or only partial; "" if there was no problem

# Features that Transform emits.
PIXELS: Final = "pixels"  # bytes[1]: height x width x channels uint8, row-major
PIXEL_MEAN: Final = "pixel_mean"  # float32[1]: mean of the training split, equal in all examples; also in SPEC_FILE
PIXEL_STD: Final = "pixel_std"  # float32[1]: standard deviation of the training split, equal in all examples; also in SPEC_FILE
IS_DRAWN: Final = "is_drawn"  # int64[1]: 1 if the picture is drawn (SOURCE is DRAWN), else 0; only Transform writes it
LABEL_IDS: Final = "label_ids"  # int64[max_length]: class ids, padded with the blank class

# Outputs of the served model.
TEXT: Final = "text"  # string [N]; "" for an invalid picture
PROBABILITIES: Final = "probabilities"  # float32 [N, max_length, num_classes]
CONFIDENCE: Final = "confidence"  # float32 [N]: the probability of TEXT, see components/evaluation/metrics.py; 0 for an invalid picture
ATTENTION: Final = "attention"  # float32 [N, max_length, columns]: of Glimpses in components/training/counting.py; 0 likewise
VALID: Final = "valid"  # bool [N]: false for a picture that cannot be decoded or is refused

# Files.
MANIFEST: Final = "manifest.json"  # of a span
DATA_INFO: Final = "data_info.csv"  # describes the legacy layout
HISTORY_FILE: Final = "history.json"  # the history of training: one row per epoch
SUMMARY_FILE: Final = "summary.json"  # of a quarantine
PROFILES_FILE: Final = "profiles.json"  # of the spans that were read: see components/data/drift.py
DRIFT_FILE: Final = "drift.json"  # the distance of the newest span from the other spans
JUDGEMENT_FILE: Final = "judgement.json"  # of a model, next to its metrics
GOLDEN_FILE: Final = "golden.json"  # next to a blessing: the model's golden-set reading; next to the production model: the best one so far
SPEC_FILE: Final = "captcha.json"  # in a SavedModel's assets.extra: the model's CaptchaSpec, and the inputs of its training
SERVABLE: Final = "servable"  # in SPEC_FILE: true; missing in models of earlier releases, which only a Python server can use
WRONG_SIZE: Final = "wrong_size"  # in SPEC_FILE: "resize" or "refuse"; missing in models of earlier releases, which resize
PROFILE_FILE: Final = "profile.json"  # in a SavedModel's assets.extra: see components/serving/training_profile.py
MAX_PIXELS: Final = "max_pixels"  # in SPEC_FILE: larger pictures are refused; missing in models of earlier releases
BACKGROUND: Final = "background"  # in SPEC_FILE: the RGB colour of transparent pixels; missing in models of earlier releases
WEIGHTS_FILE: Final = "model.weights.h5"  # in a SavedModel's assets.extra: the weights for a warm start
CANARIES_FILE: Final = "canaries.json"  # in a SavedModel's assets.extra: pictures and their readings: see components/serving/canaries.py
