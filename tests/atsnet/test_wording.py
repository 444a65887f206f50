from atsnet.wording import counted


def test_one_is_no_plural() -> None:
    assert [counted(number, "held-out image") for number in (0, 1, 2)] == [
        "0 held-out images",
        "1 held-out image",
        "2 held-out images",
    ]
