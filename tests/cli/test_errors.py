import importlib
import pkgutil

import pytest

import atsnet
import model_export
from atsnet.data.layout import DataError
from cli.errors import KNOWN, describe
from cli.exit_codes import ExitCode

INTERNAL = {"BackboneKeyError", "DistillationError", "NotFittedError"}
"""No command sees them: turned into another one, the failure of one cell of a benchmark, or a slip of our own."""


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_name_is_an_exception(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), kind), Exception)


@pytest.mark.parametrize("package", [atsnet, model_export], ids=lambda package: package.__name__)
def test_no_exception_of_the_project_is_forgotten(package: object) -> None:
    found = []
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):  # type: ignore[attr-defined]
        module = importlib.import_module(info.name)
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == info.name
        ]
    assert found
    forgotten = [kind.__name__ for kind in found if describe(kind.__new__(kind)) is None]
    assert set(forgotten) == INTERNAL & {kind.__name__ for kind in found}


def test_subclasses_have_the_code_of_their_base() -> None:
    class OddDataError(DataError):
        pass

    assert describe(OddDataError("odd")) == (ExitCode.DATA, "odd")


def test_refusals_of_the_system_name_the_file() -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - any of them will do
        open("/proc/none/such", "w")  # noqa: PTH123, SIM115
    known = describe(caught.value)
    assert known is not None
    assert known[0] is ExitCode.UNEXPECTED
    assert "/proc/none/such: No such file" in known[1]


@pytest.mark.parametrize("error", [ValueError("who knows"), ModuleNotFoundError("no colour", name="colour")])
def test_what_nobody_foresaw_keeps_its_traceback(error: Exception) -> None:
    assert describe(error) is None


def test_missing_runtime_names_both_extras() -> None:
    known = describe(ModuleNotFoundError("gone", name="onnxruntime.capi"))
    assert known is not None
    assert known[0] is ExitCode.CONFIGURATION
    assert "atsnet[cpu]" in known[1]
    assert "atsnet[gpu]" in known[1]
