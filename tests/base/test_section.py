import pytest

from components.base.errors import CaptchaPipelineError
from components.evaluation.gate import Gate


def test_values_of_a_step_make_a_section() -> None:
    assert Gate.from_values({"max_regression": 0.1}) == Gate(max_regression=0.1)


def test_invalid_values_are_named() -> None:
    with pytest.raises(
        CaptchaPipelineError, match=r"min_sequence_accuracy: .*less than or equal to 1 \(it is 98\); min_pictures: "
    ) as caught:
        Gate.from_values({"min_sequence_accuracy": 98, "min_pictures": 0})
    assert "traceback" not in str(caught.value).lower()
