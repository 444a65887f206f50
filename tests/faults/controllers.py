"""Controllers at the line: each posts one part after the other and retries until it has a verdict, as a PLC would."""

import http.client
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import orjson
from stations import Station, wait_until

VERDICTS = (1, 2, 4)
KEPT = ("id", "result", "code", "verdict", "score", "model", "model_version", "regions", "serial", "trigger")
"""What has to be the same whenever a part is answered."""
PATIENCE_S = 120.0


class Controllers:
    """Several of them, each on a thread with a station name of its own, for the time of a block.

    One request in ten is given up within 20 ms, as by a controller with little time; one part in five is asked for
    again although it was answered, as if the answer had been lost.
    """

    def __init__(self, station: Station, count: int, seed: int) -> None:
        self.answers: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        """Every verdict that was answered, by station and trigger."""
        self.outcomes: Counter[str] = Counter()
        self.longest_s = 0.0
        """That a part waited for its verdict, with all its retries."""
        self._station = station
        self._images = station.samples
        self._enough = threading.Event()
        self._hopeless = False
        """Whether nobody waits for verdicts any more."""
        self._threads = [
            threading.Thread(target=self._work, args=[f"s{number}", random.Random(f"{seed} {number}")])
            for number in range(count)
        ]

    def __enter__(self) -> "Controllers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._hopeless = failure is not None
        self._enough.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        """Verdicts that were answered so far."""
        return sum(len(answers) for answers in list(self.answers.values()))

    def wait_for(self, further: int) -> None:
        """Wait for so many more answered verdicts."""
        before = self.count
        wait_until(lambda: self.count > before + further)

    def _work(self, name: str, chance: random.Random) -> None:
        connection: http.client.HTTPConnection | None = None
        trigger = 0
        while not self._enough.is_set():
            trigger += 1
            image = chance.choice(self._images)
            began = time.monotonic()
            wanted = 2 if chance.random() < 0.2 else 1
            while len(self.answers[name, trigger]) < wanted and not self._hopeless:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._station.port)
                hasty = chance.random() < 0.1
                patience_s = chance.uniform(0.0005, 0.02) if hasty else PATIENCE_S
                outcome = self._ask(connection, name, trigger, image, patience_s)
                self.outcomes[outcome] += 1
                if outcome not in ("verdict", "replayed"):
                    if outcome in ("broken", "given up"):
                        connection.close()
                        connection = None
                    time.sleep(0.01)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
        if connection is not None:
            connection.close()

    def _ask(
        self, connection: http.client.HTTPConnection, name: str, trigger: int, image: bytes, patience_s: float
    ) -> str:
        query = urlencode({"station": name, "serial": "A", "trigger": trigger})
        try:
            connection.timeout = patience_s
            if connection.sock is not None:
                connection.sock.settimeout(patience_s)
            connection.request("POST", f"/v1/inspections?{query}", image)
            response = connection.getresponse()
            document = orjson.loads(response.read())
        except TimeoutError:
            return "given up"
        except (OSError, http.client.HTTPException):
            return "broken"
        if response.status != 200:
            assert document["result"] in (0, 3), document
            return f"{response.status}/{document['code']}"
        assert document["result"] in VERDICTS, document
        self.answers[name, trigger].append(document)
        return "replayed" if document["replayed"] else "verdict"


def contradictions(answers: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    """Parts that were answered differently, or as another part."""
    found = []
    for (name, trigger), documents in answers.items():
        first = documents[0]
        if any(document[key] != first[key] for document in documents for key in KEPT):
            found.append(f"{name}/{trigger} was answered differently: {documents}")
        if (first["station"], first["trigger"]) != (name, trigger):
            found.append(f"{name}/{trigger} was answered as another: {first}")
    return found


def against_records(station: Station, answers: dict[tuple[str, int], list[dict[str, Any]]]) -> tuple[list[str], ...]:
    """Answered verdicts that are lost, that their record contradicts, and parts with several verdicts on record."""
    rows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    columns = ("station", "trigger", "id", "result", "code", "verdict", "score")
    marks: Sequence[object] = VERDICTS
    for row in station.rows(f"SELECT {', '.join(columns)} FROM inspections WHERE result IN {tuple(marks)}"):
        found = dict(zip(columns, row, strict=True))
        found["score"] = round(found["score"], 6)  # as it is answered
        rows[found["station"], found["trigger"]].append(found)
    lost = [f"{part}: {documents[0]}" for part, documents in answers.items() if documents and not rows[part]]
    contradicted = [
        f"{part}: {document} is on record as {row}"
        for part, documents in answers.items()
        for document in documents
        for row in rows[part]
        if any(row[key] != document[key] for key in columns)
    ]
    duplicates = [f"{part}: {found}" for part, found in rows.items() if len(found) > 1]
    return lost, contradicted, duplicates
