from archiving import ids, keepsake

from service.archive.waiting import Waiting

SIZE = keepsake(ids(1)[0]).waiting_bytes


def test_rejects_are_written_before_passes_that_came_earlier() -> None:
    waiting = Waiting(10 * SIZE)
    first, second, third = ids(3)
    for one in (keepsake(first, "pass"), keepsake(second), keepsake(third)):
        assert waiting.add(one) == []
    order = []
    while (one := waiting.first()) is not None:
        order.append(one.id)
        waiting.remove(one)
    assert order == [second, third, first]
    assert not waiting


def test_newest_passes_give_way_to_a_reject() -> None:
    waiting = Waiting(4 * SIZE)
    passes = [keepsake(one, "pass") for one in ids(4)]
    for one in passes:
        assert waiting.add(one) == []
    large = keepsake(ids(5)[4], size=SIZE)
    assert waiting.add(large) == [passes[3], passes[2]]
    assert waiting.get(large.id) is large
    assert [waiting.get(one.id) for one in passes] == [*passes[:2], None, None]


def test_pass_gives_way_to_nobody_and_nobody_to_it() -> None:
    waiting = Waiting(2 * SIZE)
    others = [keepsake(one) for one in ids(2)]
    for one in others:
        assert waiting.add(one) == []
    late = keepsake(ids(3)[2], "pass")
    assert waiting.add(late) == [late]


def test_what_is_larger_than_the_memory_drives_nobody_out() -> None:
    waiting = Waiting(2 * SIZE)
    passed = keepsake(ids(1)[0], "pass")
    assert waiting.add(passed) == []
    large = keepsake(ids(2)[1], size=3 * SIZE)
    assert waiting.add(large) == [large]
    assert waiting.first() is passed


def test_memory_is_given_back_once() -> None:
    waiting = Waiting(SIZE)
    one, two, three = map(keepsake, ids(3))
    assert waiting.add(one) == []
    waiting.remove(one)
    waiting.remove(one)
    assert waiting.add(two) == []
    assert waiting.add(three) == [three]


def test_postponed_goes_last_of_its_kind() -> None:
    waiting = Waiting(10 * SIZE)
    first, second = map(keepsake, ids(2))
    for one in (first, second):
        waiting.add(one)
    waiting.postpone(first)
    assert waiting.first() is second
