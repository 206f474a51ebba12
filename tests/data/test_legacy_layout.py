import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec, LabelError
from components.data.example_proto import Example, bytes_example
from components.data.legacy_layout import DataInfo, legacy_example, to_canonical
from components.data.records import RecordError, canonical_example

HEADER = "name,type,shape,isbyte,length_type,default\n"
SPECS = st.builds(
    CaptchaSpec,
    charset=st.sampled_from(["digits", "alnum", "абвгд", "あいうえお", "aA1!"]),
    length=st.one_of(st.integers(1, 8), st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda t: {"min": t[0], "max": t[0] + t[1]})),
    width=st.integers(8, 40),
    height=st.integers(8, 40),
    channels=st.sampled_from([1, 3]),
)


def value(example, name):
    return example.features.feature[name].bytes_list.value[0]


def pixels_of(example):
    with Image.open(io.BytesIO(value(example, "image"))) as image:
        return np.asarray(image)


@st.composite
def captchas(draw):
    spec = draw(SPECS)
    label = draw(st.text(spec.characters, min_size=spec.min_length, max_size=spec.max_length))
    seed = draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).integers(0, 256, (spec.height, spec.width, spec.channels), np.uint8)
    return spec, label, pixels


@settings(max_examples=60)
@given(captchas())
def test_a_legacy_record_converts_to_the_same_label_and_pixels(captcha):
    spec, label, pixels = captcha
    example = Example.FromString(legacy_example(pixels, label, spec).SerializeToString())
    canonical = to_canonical(example, DataInfo.for_spec(spec), spec)
    assert value(canonical, "label").decode() == label
    np.testing.assert_array_equal(pixels_of(canonical).reshape(pixels.shape), pixels)


@settings(max_examples=30)
@given(captchas())
def test_a_legacy_record_has_raw_pixels_ids_and_their_one_hot_map(captcha):
    spec, label, pixels = captcha
    example = legacy_example(pixels, label, spec)
    ids = np.frombuffer(value(example, "label_raw"), np.int64)
    one_hot = np.frombuffer(value(example, "map_raw"), np.uint8).reshape(spec.max_length, spec.num_classes)
    assert value(example, "image_raw") == pixels.tobytes()
    assert ids.tolist() == spec.encode(label)
    np.testing.assert_array_equal(one_hot.argmax(1), ids)
    assert one_hot.sum() == spec.max_length


@settings(max_examples=30)
@given(SPECS)
def test_data_info_is_read_as_it_was_written(tmp_path_factory, spec):
    path = tmp_path_factory.mktemp("info") / "data_info.csv"
    DataInfo.for_spec(spec).save(path)
    assert DataInfo.load(path) == DataInfo.for_spec(spec)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_a_record_error(data):
    spec = CaptchaSpec()
    example = bytes_example({"image_raw": data, "label_raw": data})
    with pytest.raises(RecordError):
        to_canonical(example, DataInfo.for_spec(spec), spec)


def test_our_examples_and_tensorflow_examples_are_compatible():
    import tensorflow as tf

    spec = CaptchaSpec()
    pixels = np.zeros((30, 100, 3), np.uint8)
    ours = legacy_example(pixels, "0042", spec).SerializeToString(deterministic=True)
    theirs = tf.train.Example.FromString(ours)
    assert theirs.SerializeToString(deterministic=True) == ours
    assert isinstance(to_canonical(theirs, DataInfo.for_spec(spec), spec), tf.train.Example)
    parsed = tf.io.parse_single_example(
        canonical_example(b"picture", "é", "shop", {"b": 1, "a": [2]}).SerializeToString(),
        {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "label", "source", "params")},
    )
    assert {name: tensor.numpy().decode() for name, tensor in parsed.items()} == {
        "image": "picture",
        "label": "é",
        "source": "shop",
        "params": '{"a":[2],"b":1}',
    }
    numbers = tf.train.Example()
    numbers.features.feature["i"].int64_list.value.extend([-1, 2**62])
    numbers.features.feature["f"].float_list.value.extend([0.5])
    read = Example.FromString(numbers.SerializeToString()).features.feature
    assert list(read["i"].int64_list.value) == [-1, 2**62]
    assert list(read["f"].float_list.value) == [0.5]


@pytest.mark.parametrize("shape", ["(30,100,3)", '"(30, 100, 3)"', '"[30, 100, 3]"', '"30,100,3"'])
def test_shapes_are_read_in_every_notation(tmp_path, shape):
    path = tmp_path / "data_info.csv"
    quoted = shape if shape.startswith('"') else f'"{shape}"'
    path.write_text(f"{HEADER}image_raw, tf.uint8, {quoted}, True, fixed,\nlabel_raw,int64,4,1,FIXED,None\nother,float32,(),no,var,\n")
    info = DataInfo.load(path)
    assert info["image_raw"].shape == (30, 100, 3)
    assert info["label_raw"].shape == (4,)
    assert not info["other"].isbyte


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,type\n", "lacks the columns shape, isbyte, length_type, default"),
        (f'{HEADER}image_raw,uint8,"[30,100,3]",True,fixed,\n', "one row for label_raw; it has 0"),
        (f'{HEADER}image_raw,uint8,__import__("os"),True,fixed,\n', "line 2: shape is"),
        (f"{HEADER}image_raw,object,4,True,fixed,\n", "line 2: type is 'object'"),
        (f"{HEADER}image_raw,uint8,4,maybe,fixed,\n", "line 2: isbyte is 'maybe'"),
        (f"{HEADER}image_raw,uint8,4,True,long,\n", "line 2: length_type is 'long'"),
        (f'{HEADER}label_raw,int64,4,True,fixed,"[1,2]"\n', "line 2: default is"),
        (f"{HEADER}image_raw,float32,4,True,fixed,\nlabel_raw,int64,4,True,fixed,\n", "must be of an integer type"),
        (f"{HEADER}image_raw,uint8,4,True,fixed,\nlabel_raw,int64,4,True,fixed,\n", r"the shape \[4\]"),
    ],
)
def test_a_wrong_data_info_is_refused_with_its_path(tmp_path, text, message):
    path = tmp_path / "data_info.csv"
    path.write_text(text)
    with pytest.raises(CaptchaPipelineError, match=message) as caught:
        DataInfo.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_data_info_is_named(tmp_path):
    with pytest.raises(CaptchaPipelineError, match=r"Cannot read .*data_info.csv: No such file"):
        DataInfo.load(tmp_path / "data_info.csv")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_raw": None}, "feature_missing"),
        ({"label_raw": None}, "feature_missing"),
        ({"image_raw": b"\0" * 8999}, "feature_shape"),
        ({"label_raw": b"\0" * 31}, "feature_shape"),
        ({"label_raw": b"\0" * 40}, "feature_shape"),
        ({"label_raw": np.array([0, 1, 2, 10], "<i8").tobytes()}, "label_charset"),
        ({"label_raw": np.array([0, 1, 2, -1], "<i8").tobytes()}, "label_charset"),
    ],
)
def test_each_fault_of_a_legacy_record_has_its_reason(change, reason):
    spec = CaptchaSpec()
    values = {"image_raw": b"\0" * 9000, "label_raw": b"\0" * 32} | change
    example = bytes_example({name: data for name, data in values.items() if data is not None})
    with pytest.raises(RecordError) as caught:
        to_canonical(example, DataInfo.for_spec(spec), spec)
    assert caught.value.reason == reason


def test_numbers_defaults_and_variable_lengths_are_read_as_declared(tmp_path):
    spec = CaptchaSpec(width=8, height=8, channels=1, length={"min": 2, "max": 4})
    path = tmp_path / "data_info.csv"
    path.write_text(f'{HEADER}image_raw,int32,"[8, 8]",False,fixed,7\nlabel_raw,int64,,False,var,"[1, 2]"\n')
    info = DataInfo.load(path)
    example = Example()
    canonical = to_canonical(example, info, spec, "shop")
    assert (value(canonical, "label"), value(canonical, "source")) == (b"12", b"shop")
    assert (pixels_of(canonical) == 7).all()
    example.features.feature["label_raw"].int64_list.value.extend([3, 4, 5])
    assert value(to_canonical(example, info, spec), "label") == b"345"
    example.features.feature["label_raw"].int64_list.value.extend([3, 4])
    with pytest.raises(RecordError, match="at most 4"):
        to_canonical(example, info, spec)
    example.features.feature["image_raw"].int64_list.value.extend([256] * 64)
    with pytest.raises(RecordError, match="not 0 to 255"):
        to_canonical(example, info, spec)
    info.save(path)
    assert value(to_canonical(Example(), DataInfo.load(path), spec), "label") == b"12"


def test_no_legacy_record_is_written_from_a_wrong_label_or_picture():
    spec = CaptchaSpec()
    with pytest.raises(LabelError):
        legacy_example(np.zeros((30, 100, 3), np.uint8), "12a4", spec)
    with pytest.raises(ValueError, match=r"not uint8 \(30, 100, 3\)"):
        legacy_example(np.zeros((30, 100, 1), np.uint8), "1234", spec)


def test_params_keep_other_alphabets_readable():
    example = canonical_example(b"", "1", "s", {"file": "ж.png"})
    assert json.loads(value(example, "params")) == {"file": "ж.png"}
    assert "ж" in value(example, "params").decode()
