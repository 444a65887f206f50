"""Multipart forms, parsed in memory: the body was bounded before, and image parts need no file name."""

from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.problems import NOT_AN_IMAGE, WRONG_FIELD, Problem

_MAX_PARTS: Final = 32


def boundary_of(content_type: str, body: bytes) -> bytes | None:
    """The boundary of a multipart form, `None` for anything else.

    A body that does not begin with the boundary is no form, whatever its Content-Type says: the libraries of
    controllers send wrong ones.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        return None
    return boundary if body.lstrip(b"\r\n").startswith(b"--" + boundary) else None


def parse_form(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """The parts of a multipart form, each with its name, in their order; several may have the same one.

    Raises:
        Problem: Code 10: the form is damaged. Code 13: a part has no name, or there are too many of them.
    """
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part,
                "on_part_data": form.add_data,
                "on_part_end": form.end_part,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(NOT_AN_IMAGE, f"the multipart form is damaged: {error}") from error
    if not form.ended:
        raise Problem(NOT_AN_IMAGE, "the multipart form is cut short: its closing boundary is missing")
    return form.parts


class _Form:
    """Gathers what the parser calls out."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self.ended = False
        self._name: str | None = None
        self._data = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()

    def begin_part(self) -> None:
        self._name = None
        self._data = bytearray()

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value.decode("latin-1"))
            if b"name" in options:
                self._name = options[b"name"].decode("utf-8", "replace")
        self._header_name.clear()
        self._header_value.clear()

    def end_part(self) -> None:
        if self._name is None:
            raise Problem(WRONG_FIELD, "a part of the form has no name", extensions={"field": ""})
        if len(self.parts) == _MAX_PARTS:
            raise Problem(WRONG_FIELD, f"the form has more than {_MAX_PARTS} parts", extensions={"field": ""})
        self.parts.append((self._name, bytes(self._data)))

    def end(self) -> None:
        self.ended = True
