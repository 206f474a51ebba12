"""Which picture is shown in which window."""

from pipeline.labelling.leases import Leases


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_two_windows_never_get_the_same_picture() -> None:
    leases = Leases()
    assert leases.take("a", 1)
    assert not leases.take("b", 1)
    assert leases.take("b", 2)
    assert (leases.of("a"), leases.of("b")) == (1, 2)
    assert leases.held_by_others("a") == {2}
    assert leases.take("a", 3)  # in place of the last one
    assert leases.take("b", 1)


def test_a_lease_ends_when_its_window_is_closed_or_goes_on() -> None:
    leases = Leases()
    leases.take("a", 1)
    leases.leave("a")
    assert leases.of("a") is None
    assert leases.take("b", 1)
    leases.release("b")
    assert leases.of("b") is None
    leases.leave("unknown")


def test_a_lease_ends_without_a_sign_of_life() -> None:
    clock = Clock()
    leases = Leases(clock)
    leases.take("a", 1)
    leases.take("b", 2)
    clock.now = 170
    leases.touch("b")
    clock.now = 190
    assert leases.of("a") is None
    assert leases.of("b") == 2
    assert leases.take("c", 1)
    assert not leases.take("a", 1)
