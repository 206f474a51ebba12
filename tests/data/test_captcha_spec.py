import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components.data.captcha_spec import CHARSETS, CaptchaSpec, LabelError, LengthRange

CHARACTERS = st.characters(categories=("Lu", "Ll", "Lo", "Nd"))


@st.composite
def specs_and_labels(draw: st.DrawFn) -> tuple[CaptchaSpec, str]:
    alphabet = draw(st.lists(CHARACTERS, min_size=2, max_size=40, unique=True).map("".join))
    lengths = sorted(draw(st.tuples(st.integers(1, 12), st.integers(1, 12))))
    length = lengths[0] if lengths[0] == lengths[1] else LengthRange(min=lengths[0], max=lengths[1])
    try:
        spec = CaptchaSpec(charset=alphabet, length=length)
    except ValidationError:  # NFC can merge two characters
        spec = CaptchaSpec(charset="0123456789", length=length)
    label = draw(st.text(st.sampled_from(spec.characters), min_size=spec.min_length, max_size=spec.max_length))
    return spec, label


@given(specs_and_labels())
def test_decode_inverts_encode(case: tuple[CaptchaSpec, str]) -> None:
    spec, label = case
    ids = spec.encode(label)
    assert len(ids) == spec.max_length
    assert all(0 <= i < spec.num_classes for i in ids)
    assert spec.decode(ids) == spec.canonical(label) == label


@given(st.text(max_size=10))
def test_any_text_is_either_canonical_or_refused_with_a_reason(text: str) -> None:
    spec = CaptchaSpec(charset="alnum", case_sensitive=False, length=LengthRange(min=2, max=5))
    try:
        label = spec.canonical(text)
    except LabelError as error:
        reason = error.reason
        assert reason in ("label_empty", "label_length", "label_charset")
    else:
        assert 2 <= len(label) <= 5
        assert set(label) <= set(spec.characters)
        assert spec.canonical(label) == label


def test_only_a_varying_length_adds_the_blank_class() -> None:
    fixed = CaptchaSpec(charset="digits", length=4)
    ranged = CaptchaSpec(charset="digits", length=LengthRange(min=2, max=4))
    assert (fixed.num_classes, fixed.blank_id, fixed.max_length) == (10, None, 4)
    assert (ranged.num_classes, ranged.blank_id, ranged.max_length, ranged.min_length) == (11, 10, 4, 2)
    assert ranged.encode("07") == [0, 7, 10, 10]


@pytest.mark.parametrize("name", CHARSETS)
def test_named_charsets(name: str) -> None:
    assert CaptchaSpec(charset=name).characters == CHARSETS[name]


def test_case_is_folded_to_the_case_of_the_charset() -> None:
    assert CaptchaSpec(charset="abC", case_sensitive=False, length=3).canonical("ABc") == "abC"
    with pytest.raises(LabelError, match="'A' at position 1") as caught:
        CaptchaSpec(charset="abC", length=3).canonical("AbC")
    assert caught.value.reason == "label_charset"


def test_a_label_in_another_unicode_normal_form_is_accepted() -> None:
    spec = CaptchaSpec(charset="éß京", length=2)
    assert spec.canonical("e\u0301京") == "é京"


@pytest.mark.parametrize(
    ("label", "reason"), [("", "label_empty"), ("123", "label_length"), ("12345", "label_length"), ("12x4", "label_charset")]
)
def test_a_wrong_label_is_refused_with_a_reason(label: str, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        CaptchaSpec(charset="digits", length=4).canonical(label)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"charset": "aab"}, "contains 'a' twice"),
        ({"charset": "aA", "case_sensitive": False}, "set case_sensitive: true"),
        ({"charset": "a b"}, "spaces"),
        ({"charset": "x"}, "at least two"),
        ({"length": {"min": 5, "max": 4}}, "must be below"),
        ({"length": 0}, "greater than or equal to 1"),
        ({"channels": 4}, "channels must be 3"),
        ({"colour": True}, "Extra inputs"),
    ],
)
def test_an_invalid_spec_is_refused_with_a_reason(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CaptchaSpec.model_validate(fields)


def test_a_spec_survives_json() -> None:
    spec = CaptchaSpec(charset="京都", length=LengthRange(min=1, max=3), channels=1)
    assert CaptchaSpec.model_validate_json(spec.model_dump_json()) == spec
