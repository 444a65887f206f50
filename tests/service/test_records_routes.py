"""The list of inspections and the operator's word, over HTTP."""

import csv
import io
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from serving import DEFECTIVE, GOOD, Line

from service.records.audit import entries
from service.records.inspection import new_id
from service.reply import RecordDocument, RecordPage
from service.settings import Settings


@pytest.fixture
def settings(settings: Settings, database: str) -> Settings:
    return settings.model_copy(update={"database_url": database})


def inspected(line: Line, count: int, **query: Any) -> list[dict[str, Any]]:
    """Inspect good and defective parts in turn; the replies, newest first."""
    replies = [line.post(DEFECTIVE if n % 2 else GOOD, {"serial": f"A{n}", **query}).json() for n in range(count)]
    return replies[::-1]


def listed(line: Line, **query: Any) -> list[dict[str, Any]]:
    response = line.http.get("/v1/inspections", params=query)
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def put_review(line: Line, inspection_id: str, **body: Any) -> httpx.Response:
    return line.http.put(f"/v1/inspections/{inspection_id}/review", json=body)


def test_newest_comes_first_and_is_what_the_record_is(line: Line) -> None:
    replies = inspected(line, 3, station="s1", lot="L7")
    response = line.http.get("/v1/inspections")
    page = response.json()
    assert ids(page["items"]) == ids(replies)
    assert (page["next"], "Link" in response.headers) == (None, False)
    assert response.headers["Cache-Control"] == "no-store"
    RecordPage.model_validate(page)
    record = line.http.get(f"/v1/inspections/{replies[0]['id']}").json()
    RecordDocument.model_validate(record)
    assert record.pop("kept") is True
    assert page["items"][0] == record
    assert record["review"] is None


def test_pages_lead_through_all_however_many_come_meanwhile(line: Line) -> None:
    replies = inspected(line, 5, lot="L 7/ä&b")
    url: str | None = "/v1/inspections?limit=2&lot=L%207/%C3%A4%26b"
    pages = []
    while url:
        response = line.http.get(url)
        pages.append(ids(response.json()["items"]))
        line.post(GOOD, {"lot": "L 7/ä&b"})
        following = response.links.get("next", {}).get("url")
        cursor = response.json()["next"]
        assert (following is None) == (cursor is None)
        if cursor is not None:
            assert ids(listed(line, limit=2, lot="L 7/ä&b", cursor=cursor)) == ids(
                line.http.get(following).json()["items"]
            )
        url = following
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one for page in pages for one in page] == ids(replies)


def test_page_that_is_just_full_is_the_last_one(line: Line) -> None:
    inspected(line, 2)
    assert line.http.get("/v1/inspections?limit=2").json()["next"] is None


@pytest.mark.parametrize("name", ["station", "lot", "serial"])
def test_filter_by_name(line: Line, name: str) -> None:
    wanted = line.post(GOOD, {name: "x%_ä"}).json()["id"]
    line.post(GOOD, {name: "x%_b"})
    line.post(GOOD)
    assert ids(listed(line, **{name: "x%_ä"})) == [wanted]


def test_filters_are_joined_and_empty_ones_do_not_count(line: Line) -> None:
    replies = inspected(line, 4, station="s1")
    fails = [reply["id"] for reply in replies if reply["verdict"] == "fail"]
    assert ids(listed(line, verdict="fail", station="s1", lot="")) == fails
    assert listed(line, verdict="fail", station="s2") == []
    assert len(listed(line, recipe="tec-grain")) == 4
    assert listed(line, recipe="nut") == []


def test_times_are_those_of_arrival(line: Line) -> None:
    inspected(line, 4)
    items = listed(line)
    moment = items[1]["created"]
    assert ids(listed(line, since=moment)) == ids(items[:2])
    assert ids(listed(line, until=moment)) == ids(items[2:])
    there = datetime.fromisoformat(moment) + timedelta(hours=5)
    assert ids(listed(line, since=there.replace(tzinfo=None).isoformat() + "+05:00")) == ids(items[:2])
    assert ids(listed(line, since=moment.replace("Z", "").replace("+00:00", ""))) == ids(items[:2])
    assert listed(line, until="1970-01-01") == []
    assert listed(line, since="9998-12-31T23:59:59-12:00") == []


def test_table_holds_all_pages(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.records._CSV_PAGE", 2)
    replies = inspected(line, 5, station="=cmd|' /C calc'!A0", lot='a,"b"')
    put_review(line, replies[1]["id"], review="confirmed", note="@sum\nsecond line")
    response = line.http.get("/v1/inspections", headers={"Accept": "text/csv"})
    assert response.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in response.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [row["id"] for row in rows] == ids(replies)
    items = listed(line)
    for row, item in zip(rows, items, strict=True):
        assert (row["verdict"], row["lot"], row["serial"]) == (item["verdict"], 'a,"b"', item["serial"])
        assert (float(row["score"]), float(row["ms"]), row["trigger"]) == (pytest.approx(item["score"]), item["ms"], "")
        assert int(row["regions"]) == len(item["regions"])
        assert datetime.fromisoformat(row["created"]) <= datetime.fromisoformat(item["created"])
        assert row["station"] == "'=cmd|' /C calc'!A0"
    assert (rows[1]["review"], rows[1]["note"], rows[0]["review"]) == ("confirmed", "'@sum\nsecond line", "")


def test_table_is_filtered_limited_and_may_be_empty(line: Line) -> None:
    replies = inspected(line, 4)
    accept = {"Accept": "text/csv, application/json;q=0.5"}
    fails = line.http.get("/v1/inspections?verdict=fail", headers=accept).text.splitlines()
    assert len(fails) == 3
    assert len(line.http.get("/v1/inspections?limit=3", headers=accept).text.splitlines()) == 4
    assert line.http.get("/v1/inspections?lot=none", headers=accept).text.splitlines() == fails[:1]
    cursor = line.http.get("/v1/inspections?limit=3").json()["next"]
    rest = line.http.get("/v1/inspections", params={"cursor": cursor}, headers=accept).text.splitlines()
    assert [row.split(",")[0] for row in rest[1:]] == [replies[3]["id"]]
    assert line.http.get("/v1/inspections?verdict=good", headers=accept).json()["code"] == 13


def test_review_stands_beside_the_verdict(line: Line) -> None:
    reply = line.post(DEFECTIVE, {"serial": "A1"}).json()
    response = put_review(line, reply["id"], review="false_reject", note="only dust")
    document = response.json()
    assert (response.status_code, document["verdict"], document["result"]) == (200, "fail", 2)
    review = document["review"]
    assert (review["review"], review["note"], review["by"]) == ("false_reject", "only dust", None)
    assert line.http.get(f"/v1/inspections/{reply['id']}").json() == document
    assert listed(line)[0]["review"] == review


def test_latest_review_counts_and_a_repeated_one_is_one(line: Line) -> None:
    first, second = (line.post(DEFECTIVE).json()["id"] for _ in range(2))
    put_review(line, first, review="false_reject")
    put_review(line, second, review="confirmed")
    put_review(line, first, review="confirmed", note="it is a crack")
    assert put_review(line, first, review="confirmed", note="it is a crack").status_code == 200
    third = line.post(GOOD).json()["id"]
    assert ids(listed(line, review="confirmed")) == [second, first]
    assert listed(line, review="false_reject") == []
    assert ids(listed(line, review="none")) == [third]
    with line.station.equipment.records.engine.connect() as connection:
        trail = [entry for entry in entries(connection) if entry.action == "reviewed"]
    assert [(entry.subject, entry.old, entry.new) for entry in trail] == [
        (f"inspection/{first}", None, {"review": "false_reject", "note": ""}),
        (f"inspection/{second}", None, {"review": "confirmed", "note": ""}),
        (
            f"inspection/{first}",
            {"review": "false_reject", "note": ""},
            {"review": "confirmed", "note": "it is a crack"},
        ),
    ]


def test_example_of_a_review(line: Line) -> None:
    paths = line.http.get("/openapi.json").json()["paths"]
    body = paths["/v1/inspections/{inspection_id}/review"]["put"]["requestBody"]["content"]["application/json"]
    response = put_review(line, line.post(DEFECTIVE).json()["id"], **body["example"])
    assert response.status_code == 200
    assert body["example"].items() <= response.json()["review"].items()


def test_fields_of_the_list_are_described(line: Line) -> None:
    parameters = line.http.get("/openapi.json").json()["paths"]["/v1/inspections"]["get"]["parameters"]
    assert {parameter["name"] for parameter in parameters} == {
        *("lot", "serial", "station", "recipe", "verdict", "review", "since", "until", "limit", "cursor")
    }
    assert all(parameter["description"] and parameter["in"] == "query" for parameter in parameters)


@pytest.mark.parametrize("inspection_id", ["x", new_id()], ids=["no id", "unknown"])
def test_review_of_what_was_never_inspected(line: Line, inspection_id: str) -> None:
    response = put_review(line, inspection_id, review="confirmed")
    assert (response.status_code, response.json()["code"]) == (404, 20)


def test_records_that_cannot_be_reached_are_a_problem_that_passes(line: Line) -> None:
    inspection_id = line.post(GOOD).json()["id"]
    path = f"/v1/inspections/{inspection_id}"
    with line.station.equipment.records.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE inspections RENAME TO hidden")
    table = line.http.get("/v1/inspections", headers={"Accept": "text/csv"})
    responses = [
        line.http.get("/v1/inspections"),
        line.http.get(path),
        table,
        put_review(line, inspection_id, review="confirmed"),
    ]
    for response in responses:
        assert (response.status_code, response.json()["code"]) == (503, 40)
        assert int(response.headers["Retry-After"]) >= 1
