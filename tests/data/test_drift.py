"""The distances between spans, compared with TFDV's comparators."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.types import standard_artifacts

from components.base.errors import CaptchaPipelineError
from components.data.drift import MEASURES, NUMBERS, Profile, complain, describe, distances
from components.drift_gate import DriftGate

THRESHOLDS = dict.fromkeys(MEASURES, 0.1)


def profile(seed: int = 0, count: int = 500, brightness: float = 100.0, characters: str = "AB", source: str = "shop") -> Profile:
    """Returns the profile of `count` pictures of two characters each."""
    rng = np.random.default_rng(seed)
    counts: dict[str, dict[str, int]] = {measure: {} for measure in MEASURES}

    def add(measure: str, value: str) -> None:
        counts[measure][value] = counts[measure].get(value, 0) + 1

    for _ in range(count):
        for name in NUMBERS:
            add(name, str(int(np.clip(rng.normal(brightness if name == "brightness" else 60, 8), 0, 255))))
        add("size", "100x30")
        add("source", source)
        for position in (1, 2):
            character = rng.choice(list(characters))
            add("characters", character)
            add("positions", f"{position} {character}")
    return Profile(counts)


def tfdv_statistics(profile: Profile) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Returns the counts of a profile as TFDV statistics."""
    whole = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = whole.datasets.add(num_examples=sum(profile.counts["size"].values()))
    for measure in MEASURES:
        counts = profile.counts[measure]
        numeric = measure in NUMBERS
        feature = dataset.features.add(
            type=statistics_pb2.FeatureNameStatistics.FLOAT if numeric else statistics_pb2.FeatureNameStatistics.STRING
        )
        feature.path.step.append(measure)
        common = (feature.num_stats if numeric else feature.string_stats).common_stats
        common.num_non_missing, common.tot_num_values = dataset.num_examples, sum(counts.values())
        if numeric:
            histogram = feature.num_stats.histograms.add(type=statistics_pb2.Histogram.STANDARD)
            for level in range(256):
                histogram.buckets.add(low_value=level, high_value=level + 1, sample_count=counts[str(level)])
        else:
            for label, count in counts.items():
                feature.string_stats.rank_histogram.buckets.add(label=label, sample_count=count)
    return whole


def tfdv_distances(newest: Profile, others: Profile) -> dict[str, float]:
    schema = schema_pb2.Schema()
    for measure in MEASURES:
        numeric = measure in NUMBERS
        feature = schema.feature.add(name=measure, type=schema_pb2.FLOAT if numeric else schema_pb2.BYTES)
        comparator = feature.drift_comparator
        (comparator.jensen_shannon_divergence if numeric else comparator.infinity_norm).threshold = 0.1
    found = tfdv.validate_statistics(tfdv_statistics(newest), schema, previous_statistics=tfdv_statistics(others))
    return {info.path.step[0]: info.drift_measurements[0].value for info in found.drift_skew_info}


def test_the_distances_match_tfdv() -> None:
    newest, others = profile(1, 300, 110.0, "ABC", "street"), profile(2)
    ours = {measure: distance.value for measure, distance in distances(newest, others, THRESHOLDS).items()}
    theirs = tfdv_distances(newest, others)
    # TFDV has no positions: with both positions in one feature, each share is half of the share at its position.
    assert ours.pop("positions") == pytest.approx(2 * theirs.pop("positions"), abs=0.02)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours["brightness"] > 0.1 > ours["contrast"]
    assert ours["source"] == 1.0


@settings(max_examples=30)
@given(st.integers(0, 5), st.integers(0, 5), st.floats(20, 230), st.sampled_from(["A", "AB", "BCD"]))
def test_distances_are_symmetric_and_between_0_and_1(first: int, second: int, brightness: float, characters: str) -> None:
    left, right = profile(first, 40), profile(second, 60, brightness, characters)
    forth, back = distances(left, right, THRESHOLDS), distances(right, left, THRESHOLDS)
    for measure in MEASURES:
        assert forth[measure].value == pytest.approx(back[measure].value)
        assert 0 <= forth[measure].value <= 1 + 1e-12
        assert distances(left, left, THRESHOLDS)[measure].value == pytest.approx(0)


def test_the_newest_span_is_compared_with_all_others_together() -> None:
    found = describe({"span-000001": profile(1), "span-000002": profile(2), "span-000003": profile(3, brightness=140)}, THRESHOLDS)
    assert found["newest"] == "span-000003"
    assert found["distances"]["brightness"]["value"] > 0.5
    assert sum(found["histograms"]["brightness"]["others"]) == pytest.approx(1)
    text = complain(found)
    assert "span-000003" in text
    assert "brightness: " in text
    assert "contrast" not in text
    assert complain(describe({"span-000001": profile(1), "span-000002": profile(2)}, THRESHOLDS)) == ""


def test_a_null_threshold_never_reports_drift() -> None:
    found = describe({"1": profile(1), "2": profile(2, brightness=200)}, THRESHOLDS | {"brightness": None})
    assert complain(found) == ""


@pytest.mark.parametrize("profiles", [{"1": profile()}, {"1": Profile(), "2": profile()}, {"1": profile(), "2": Profile()}])
def test_no_distances_without_two_filled_profiles(profiles: dict[str, Profile]) -> None:
    found = describe(profiles, THRESHOLDS)
    assert found["distances"] == {}
    assert complain(found) == ""


def gate(path: Path, profiles: dict[str, Profile], action: str) -> dict:
    statistics, anomalies = standard_artifacts.ExampleStatistics(), standard_artifacts.ExampleAnomalies()
    for artifact, name in ((statistics, "profiles"), (anomalies, "anomalies")):
        artifact.uri = str(path / name)
        (path / name).mkdir(parents=True)
    content = {span: counts.to_json() for span, counts in profiles.items()}
    (path / "profiles" / "profiles.json").write_text(json.dumps(content))
    properties = {"thresholds": json.dumps(THRESHOLDS), "action": action, "source_digest": ""}
    DriftGate.EXECUTOR_SPEC.executor_class().Do({"profiles": [statistics]}, {"anomalies": [anomalies]}, properties)
    return json.loads((path / "anomalies" / "drift.json").read_text())


def test_the_gate_warns_or_stops(tmp_path: Path) -> None:
    alike, unlike = ({"span-000001": profile(1), "span-000002": other} for other in (profile(2), profile(2, source="street")))
    assert gate(tmp_path / "a", alike, "stop")["distances"]["source"]["value"] == 0
    assert gate(tmp_path / "b", unlike, "warn")["distances"]["source"] == {"value": 1.0, "threshold": 0.1}
    with pytest.raises(
        CaptchaPipelineError, match=r"(?s)span-000002 differ from.*source: 1\.000; drift\.source allows 0\.1.*data\.exclude"
    ):
        gate(tmp_path / "c", unlike, "stop")


def test_the_number_of_sources_in_a_profile_is_limited() -> None:
    many = Profile({"source": {f"{i}" * 30: 1 for i in range(5000)}})
    assert len(many.to_json()["source"]) == 1000
