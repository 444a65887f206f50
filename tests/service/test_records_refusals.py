"""Wrong questions about inspections, and wrong words on them; no database has a part in that."""

import pytest
from serving import GOOD, Line
from test_records_routes import listed


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("verdict=good", "verdict"),
        ("review=wrong", "review"),
        ("since=yesterday", "since"),
        ("since=0001-01-01T00:00:00%2B14:00", "since"),
        ("until=9999-12-31T23:59:59", "until"),
        ("since=1777593600", "since"),
        ("until=1777593600000", "until"),
        ("until=1777593600.5", "until"),
        ("since=-1", "since"),
        ("since=20260501", "since"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%C3%A4", "cursor"),
        ("cursor=" + "A" * 24, "cursor"),
        ("lot=a%00b", "lot"),
        ("lot=" + "x" * 129, "lot"),
        ("lot=a&lot=b", "lot"),
        ("lott=a", "lott"),
    ],
)
def test_wrong_query_names_the_field(line: Line, query: str, field: str) -> None:
    response = line.http.get(f"/v1/inspections?{query}")
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (422, 13, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"review": "good"}', "review"),
        (b"{}", "review"),
        (b'{"review": "confirmed", "note": 1}', "note"),
        (b'{"review": "confirmed", "note": "a\\u0000b"}', "note"),
        (b'{"review": "confirmed", "note": "' + b"x" * 2001 + b'"}', "note"),
        (b'{"review": "confirmed", "by": "me"}', "by"),
        (b'"confirmed"', "body"),
        (b"", "body"),
        (b"\xff", "body"),
    ],
)
def test_wrong_review_names_the_field(line: Line, body: bytes, field: str) -> None:
    inspection_id = line.post(GOOD).json()["id"]
    response = line.http.put(f"/v1/inspections/{inspection_id}/review", content=body)
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (422, 13, field)
    assert listed(line)[0]["review"] is None


def test_review_of_a_whole_book_is_refused(line: Line) -> None:
    inspection_id = line.post(GOOD).json()["id"]
    response = line.http.put(f"/v1/inspections/{inspection_id}/review", content=b" " * 100_000)
    assert (response.status_code, response.json()["code"]) == (413, 11)
