import collections
import json
import logging
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import beta

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drift import NUMBERS, Profile
from components.data.pictures import PictureRules
from components.serving.training_profile import TrainingProfile
from pipeline.server.drift_events import FEATURES, MAX_FACTOR, TOLERANCE, Measurements, events_of
from pipeline.server.drift_monitor import PICTURES_PER_FALSE_ALARM, RECENT, Alarm, DriftMonitor, measure
from tests.support.encoded import encode
from tests.support.model_folder import make_model

RULES = PictureRules(10_000, (255, 255, 255), "resize")
CHARSET = "0123456789"


def traffic(count: int, seed: int = 0, characters: str = CHARSET) -> list[Measurements]:
    rng = np.random.default_rng(seed)
    texts = rng.choice(list(characters), (count, 4))
    levels = rng.normal([215, 45, 13], [8, 6, 2], (count, 3)).tolist()
    readings = zip(map("".join, texts), rng.beta(20, 1, count), strict=True)
    return [Measurements(100, 30, b, c, s, text, confidence) for (b, c, s), (text, confidence) in zip(levels, readings, strict=True)]


def profile_of(pictures: list[Measurements]) -> TrainingProfile:
    counts = {name: collections.Counter(str(picture.value(name)) for picture in pictures) for name in NUMBERS}
    sizes = collections.Counter(f"{picture.width}x{picture.height}" for picture in pictures)
    readings = [picture.text for picture in pictures], [picture.confidence for picture in pictures]
    return TrainingProfile.of([Profile(counts | {"size": sizes})], *readings, RULES)


PROFILE = profile_of(traffic(2000))


def alarms(monitor: DriftMonitor, pictures: list[Measurements]) -> Iterator[Alarm]:
    return filter(None, map(monitor.observe, pictures))


def first_alarm(pictures: list[Measurements], monitor: DriftMonitor | None = None) -> Alarm:
    alarm = next(alarms(monitor or DriftMonitor(PROFILE), pictures), None)
    assert alarm, "no alarm"
    return alarm


@pytest.mark.parametrize("seed", [1, 2])
def test_traffic_like_the_training_pictures_raises_no_alarm(seed: int) -> None:
    assert not list(alarms(DriftMonitor(PROFILE), traffic(10_000, seed)))


def test_a_small_profile_is_no_reason_for_an_alarm() -> None:
    assert not list(alarms(DriftMonitor(profile_of(traffic(30, seed=3))), traffic(10_000, seed=1)))


DRIFTS = {
    "brightness": lambda found: found._replace(brightness=found.brightness + 12),
    "contrast": lambda found: found._replace(contrast=found.contrast * 0.7),
    "sharpness": lambda found: found._replace(sharpness=found.sharpness * 0.7),
    "width": lambda found: found._replace(width=110),
    "height": lambda found: found._replace(height=28),
    "confidence": lambda found: found._replace(confidence=found.confidence * 0.8),
    "length": lambda found: found._replace(text=found.text[:3]),
    "characters": lambda found: found._replace(text=found.text.replace("7", "8")),
}


@pytest.mark.parametrize("feature", DRIFTS)
def test_drift_after_good_traffic_is_found_within_500_pictures(feature: str) -> None:
    monitor = DriftMonitor(PROFILE)
    assert not list(alarms(monitor, traffic(2000, seed=1)))
    alarm = first_alarm([DRIFTS[feature](found) for found in traffic(500, seed=2)], monitor)
    assert (alarm.feature, 2000 < alarm.pictures <= 2500) == (feature, True)


def test_all_features_have_a_test_and_a_tolerance() -> None:
    assert set(DRIFTS) == set(FEATURES) == set(TOLERANCE)


def test_an_alarm_says_what_has_become_more_frequent() -> None:
    monitor = DriftMonitor(PROFILE)
    wider = [found._replace(width=110) for found in traffic(500)]
    alarm = first_alarm(wider, monitor)
    assert alarm == Alarm("width", "width above 100", 1.0, 0.0, 1.0, alarm.pictures)
    assert str(alarm) == (
        f"Drift of width after {alarm.pictures} pictures: width above 100 in 100.0% of the latest, in 0.0% in training (distance 1.00)"
    )


def test_the_distance_is_that_of_the_drift_gate() -> None:
    drifted = [found._replace(brightness=found.brightness + 12, text=found.text.replace("7", "8")) for found in traffic(1000, seed=2)]
    found = {alarm.feature: alarm for alarm in alarms(DriftMonitor(PROFILE), drifted)}
    for feature, alarm in found.items():
        recent = drifted[alarm.pictures - RECENT : alarm.pictures] if alarm.pictures > RECENT else drifted[: alarm.pictures]
        assert alarm.distance == pytest.approx(_distance(feature, recent))
    assert set(found) == {"brightness", "characters"}


def _distance(feature: str, recent: list[Measurements]) -> float:
    from components.data.drift import MEASURES, distances

    def as_span(counts: collections.Counter[str]) -> Profile:
        return Profile({"positions": {"1 7": 1}, feature: counts})

    ours = collections.Counter("".join(picture.text for picture in recent))
    if feature == "brightness":
        ours = collections.Counter(str(int(picture.brightness)) for picture in recent)
    trained = collections.Counter(PROFILE.counts[feature])
    with np.errstate(invalid="ignore"):
        return distances(as_span(ours), as_span(trained), dict.fromkeys(MEASURES))[feature].value


def test_a_feature_raises_one_alarm_until_the_monitor_is_reset() -> None:
    monitor = DriftMonitor(PROFILE)
    both = [found._replace(width=110, brightness=found.brightness + 20) for found in traffic(3000)]
    assert sorted(alarm.feature for alarm in alarms(monitor, both)) == ["brightness", "width"]
    monitor.reset()
    assert not list(alarms(monitor, traffic(3000)))
    again = first_alarm(both, monitor)
    assert again.pictures > 3000 or again.pictures < 500
    monitor.reset()
    assert first_alarm(both, monitor).pictures < 500, "reset starts the count again"


def test_differences_within_the_tolerance_are_no_drift() -> None:
    """5 % of the pictures have another size; a character has a share of 12 % instead of 10 %."""
    rng = np.random.default_rng(0)
    slight = [
        found._replace(width=110 if rng.random() < 0.05 else 100, text=found.text if rng.random() < 0.95 else "7" + found.text[1:])
        for found in traffic(10_000, seed=1)
    ]
    assert not list(alarms(DriftMonitor(PROFILE), slight))


def test_a_burst_of_similar_pictures_is_no_drift() -> None:
    burst = [found._replace(brightness=245 + found.brightness / 100) for found in traffic(30, seed=2)]
    assert not list(alarms(DriftMonitor(PROFILE), [*traffic(1000, seed=1), *burst, *traffic(1000, seed=3)]))


def test_a_picture_that_is_sent_many_times_is_no_drift_but_one_that_is_sent_forever_is() -> None:
    dark = traffic(1)[0]._replace(brightness=150.0)
    monitor = DriftMonitor(PROFILE)
    assert not list(alarms(monitor, [dark] * 300))
    assert first_alarm([dark] * 5000, monitor).pictures > 500


def test_the_expected_factor_of_a_stake_is_at_most_1_under_the_null_hypothesis() -> None:
    """This is what the bound on false alarms follows from: for each event, a probability of up to `tolerated`."""
    events = [event for watched in events_of(PROFILE).values() for event in watched.events]
    for event in events:
        hidden, shown = event.factors
        for chance in np.linspace(0, event.tolerated, 11):
            assert (chance * shown + (1 - chance) * hidden <= 1 + 1e-12).all()
        assert (hidden >= 0).all()
        assert (shown <= MAX_FACTOR[event.feature] + 1e-12).all()
    assert sum(event.tolerated < 1 for event in events) > 50


def test_shares_are_tolerated_up_to_the_sampling_error_of_the_profile() -> None:
    watched = events_of(profile_of(traffic(100)))
    (event,) = [event for event in watched["width"].events if event.name == "width above 100"]
    assert (event.trained, event.tolerated) == (0.0, 0.1)
    letter = watched["characters"].events[0]
    count = round(100 * letter.trained)
    assert letter.tolerated == pytest.approx(beta.ppf(1 - 1e-4, count + 1, 100 - count))
    assert letter.tolerated > letter.trained + 0.05


def test_the_stakes_bet_on_what_a_picture_shows() -> None:
    """The factors of a picture are those of its events, found by another way."""
    events = events_of(PROFILE)
    for found in traffic(200, seed=5):
        for watched in events.values():
            by_event = [event.factors[int(watched.shows(number, found))] for number, event in enumerate(watched.events)]
            np.testing.assert_allclose(watched.factors(found), by_event)


@pytest.mark.parametrize(("value", "shown"), [(99, {"below 100"}), (100, set()), (101, {"above 100"})])
def test_below_and_above_do_not_include_the_value(value: int, shown: set[str]) -> None:
    watched = events_of(PROFILE)["width"]
    picture = traffic(1)[0]._replace(width=value)
    found = {event.name.removeprefix("width ") for number, event in enumerate(watched.events) if watched.shows(number, picture)}
    assert found == shown


def test_the_false_alarms_are_bounded_at_the_edge_of_the_tolerance() -> None:
    """The worst case of the null hypothesis: one event has exactly the tolerated probability. The mean evidence stays below the count."""
    monitor = DriftMonitor(PROFILE)
    rng = np.random.default_rng(0)
    count, evidence = 500, []
    pictures = traffic(count, seed=9)
    for _ in range(40):
        monitor.reset()
        for i, wide in zip(rng.permutation(count), rng.random(count) < 0.1, strict=True):
            assert monitor.observe(pictures[i]._replace(width=110 if wide else 100)) is None
        evidence.append(float(monitor.evidence.sum()))
    assert 0 < np.mean(evidence) < 1.5 * count < PICTURES_PER_FALSE_ALARM


def test_memory_is_bounded() -> None:
    monitor = DriftMonitor(PROFILE)
    first, second = traffic(1500), traffic(5000, seed=1)
    tracemalloc.start()
    list(alarms(monitor, first))
    before, _ = tracemalloc.get_traced_memory()
    list(alarms(monitor, second))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after < 1.2 * before


def test_stakes_stay_finite_after_an_alarm() -> None:
    monitor = DriftMonitor(PROFILE)
    wider = [found._replace(width=110, text="7777") for found in traffic(3000)]
    assert len(list(alarms(monitor, wider))) == 2
    assert np.isfinite(monitor.evidence).all()


def test_threads_share_a_monitor() -> None:
    monitor = DriftMonitor(PROFILE)
    found: list[Alarm] = []
    parts = [[picture._replace(width=110) for picture in traffic(500, seed)] for seed in range(4)]
    threads = [threading.Thread(target=lambda part=part: found.extend(alarms(monitor, part))) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [alarm.feature for alarm in found] == ["width"]
    assert monitor.pictures == 2000


def test_unknown_characters_and_empty_texts_are_observed() -> None:
    monitor = DriftMonitor(PROFILE)
    assert first_alarm([found._replace(text="語") for found in traffic(500)], monitor).feature in ("length", "characters")
    monitor.reset()
    assert first_alarm([found._replace(text="") for found in traffic(500)], monitor).feature in ("length", "characters")


def test_a_picture_is_measured_as_in_training() -> None:
    spec = CaptchaSpec(charset="abc", length=2, width=16, height=8, channels=1)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16), np.uint8))
    found = measure(encode(image), "ab", 0.5, spec, RULES)
    pixels = np.asarray(image)
    steps = np.abs(np.diff(pixels.astype(int), axis=1)).mean()
    assert found == (16, 8, *map(pytest.approx, (pixels.mean(), pixels.std(), steps)), "ab", 0.5)


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    version = make_model(tmp_path / "1")
    PROFILE.export(version / "assets.extra")
    assert TrainingProfile.load(version) == PROFILE
    monitor = DriftMonitor.of_version(version)
    assert monitor
    assert monitor.rules == RULES
    assert first_alarm([found._replace(width=110) for found in traffic(500)], monitor).feature == "width"


def test_a_large_profile_has_less_than_100_kilobytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, text)) for text in rng.integers(0x4E00, 0x5A00, (5000, 8)).tolist()]
    sizes, levels = rng.integers(8, 2048, (5000, 2)).tolist(), rng.uniform(0, 255, (5000, 3)).tolist()
    pictures = [Measurements(w, h, b, c, s, t, rng.random()) for (w, h), (b, c, s), t in zip(sizes, levels, texts, strict=True)]
    profile_of(pictures).export(tmp_path)
    assert (tmp_path / "profile.json").stat().st_size < 100_000


def test_the_monitor_of_a_version_without_a_profile_is_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = make_model(tmp_path / "1")
    with caplog.at_level(logging.WARNING):
        assert DriftMonitor.of_version(version) is None
    (line,) = caplog.messages
    assert line == f"The drift monitor is off. {version} has no profile.json: an earlier release exported it. Train a new model."


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "not JSON",
        lambda _: "[]",
        lambda content: json.dumps({key: value for key, value in content.items() if key != "background"}),
        lambda content: json.dumps(content | {"background": [0, 0]}),
        lambda content: json.dumps(content | {"counts": content["counts"] | {"width": {}}}),
        lambda content: json.dumps(content | {"counts": content["counts"] | {"width": {"wide": 3}}}),
        lambda content: json.dumps(content | {"counts": content["counts"] | {"length": {"4": -3}}}),
        lambda content: json.dumps(content | {"counts": content["counts"] | {"brightness": [1, 2]}}),
    ],
)
def test_a_damaged_profile_is_named(damage, tmp_path: Path) -> None:
    version = make_model(tmp_path / "1")
    path = version / "assets.extra" / "profile.json"
    PROFILE.export(path.parent)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(CaptchaPipelineError, match=r"profile\.json is damaged"):
        TrainingProfile.load(version)
    assert DriftMonitor.of_version(version) is None
