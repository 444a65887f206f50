"""What hands the events out, beyond what a client sees of it."""

from service.events import Bell, Event, Subscription


def test_bell_tells_those_who_listen_and_says_whether_any_do() -> None:
    bell, rung, listening = Bell(), [], []
    bell.on_listening = listening.append
    bell.ring()
    first, second = lambda: rung.append(1), lambda: rung.append(2)
    bell.add(first)
    bell.add(second)
    bell.ring()
    assert sorted(rung) == [1, 2]
    bell.remove(first)
    assert bell.heard
    bell.remove(second)
    bell.ring()
    assert (bell.heard, sorted(rung), listening) == (False, [1, 2], [True, False])


def test_subscription_drops_what_is_too_much_and_says_so() -> None:
    subscription = Subscription(most=3)
    events = [Event(str(n), b"") for n in range(5)]
    subscription.hand_out(events[:2])
    assert subscription.take() == events[:2]
    subscription.hand_out(events[:2])
    subscription.hand_out(events[2:4])
    assert (subscription.overrun, subscription.take()) == (True, [])
    subscription.hand_out(events[4:])
    assert subscription.take() == []
    subscription.start_over()
    subscription.hand_out(events[4:])
    assert (subscription.overrun, subscription.take()) == (False, events[4:])
