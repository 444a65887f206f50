"""From the project's exceptions to one clear message on standard error and an exit code."""

from collections.abc import Mapping
from typing import Any, Final

import typer
from typer.core import TyperGroup

from cli.exit_codes import ExitCode

# By name, not by class: importing these modules would load torch, which the runtime install does not have.
KNOWN: Final[Mapping[str, ExitCode]] = {
    "atsnet.data.layout.dataset.DataError": ExitCode.DATA,
    "atsnet.imaging.ImageError": ExitCode.DATA,
    "atsnet.evaluation.assessment.EvaluationError": ExitCode.DATA,
    "atsnet.quality.QualityError": ExitCode.DATA,
    "atsnet.reference.TooFewImagesError": ExitCode.DATA,
    "atsnet.config.ConfigError": ExitCode.CONFIGURATION,
    "atsnet.backbones.BackboneError": ExitCode.CONFIGURATION,
    "atsnet.training.run_directory.RunError": ExitCode.CONFIGURATION,
    "atsnet.calibration.CalibrationError": ExitCode.CONFIGURATION,
    "model_export.exporter.ExportError": ExitCode.CONFIGURATION,
    "model_export.bundle.BundleError": ExitCode.CONFIGURATION,
    "model_export.tensorrt.TensorRtError": ExitCode.CONFIGURATION,
    "model_export.triton.TritonRepositoryError": ExitCode.CONFIGURATION,
    "service.settings.SettingsError": ExitCode.CONFIGURATION,
    "service.runtimes.protocol.RuntimeUnusableError": ExitCode.CONFIGURATION,
    "service.self_test.SelfTestError": ExitCode.CONFIGURATION,
    "atsnet.training.losses.NonFiniteLossError": ExitCode.REFUSED_RESULT,
    "atsnet.evaluation.scoring.ScoringError": ExitCode.REFUSED_RESULT,
    "model_export.bundle.GoldenMismatchError": ExitCode.REFUSED_RESULT,
    "model_export.parity.ParityError": ExitCode.REFUSED_RESULT,
    "model_export.onnx_file.OnnxExportError": ExitCode.REFUSED_RESULT,
    "model_export.golden.GoldenSampleError": ExitCode.REFUSED_RESULT,
    "service.client.errors.ServiceError": ExitCode.SERVICE,
}

_EXTRAS: Final = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "safetensors", "scipy", "sklearn", "matplotlib"), "train"),
    "onnxruntime": "cpu",
}
"""Which extra brings a package."""


class CommandError(Exception):
    """A command cannot go on; the message says why and what to do."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ReportingGroup(TyperGroup):
    """The group of all commands: known exceptions of any of them end in a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            typer.echo(str(error) or "interrupted", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:  # whoever read our output has seen enough; typer ends quietly
            raise
        except Exception as error:
            known = describe(error)
            if known is None:
                raise
            code, message = known
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(code) from error


def describe(error: Exception) -> tuple[ExitCode, str] | None:
    """Exit code and message of an exception; None for one that nobody foresaw, whose traceback is worth seeing."""
    if isinstance(error, CommandError):
        return error.code, str(error)
    for kind in type(error).__mro__:
        code = KNOWN.get(f"{kind.__module__}.{kind.__qualname__}")
        if code is not None:
            return code, str(error)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        if package in _EXTRAS:
            extra = _EXTRAS[package]
            install = f"pip install 'atsnet[{extra}]'"
            if extra == "cpu":
                install += " (or 'atsnet[gpu]', never both)"
            return (
                ExitCode.CONFIGURATION,
                f"this command needs {package}, which the extra {extra!r} brings: {install}",
            )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return ExitCode.UNEXPECTED, f"{where}{error.strerror or error}"
    return None
