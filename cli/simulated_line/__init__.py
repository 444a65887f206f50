"""A line that is not there: drawn parts, presented to a service as the controllers of a line would present them.

It needs the detector's procedural grains and the service's client; no other room may know both (docs/decisions/0002).
"""

from cli.simulated_line.controller import Controller
from cli.simulated_line.conveyor import Conveyor, Part, new_run
from cli.simulated_line.line import Line, stopped_by_signals
from cli.simulated_line.specimens import Specimen, Specimens, draw_specimens
from cli.simulated_line.summary import Summary
from cli.simulated_line.tally import Tally

__all__ = [
    "Controller",
    "Conveyor",
    "Line",
    "Part",
    "Specimen",
    "Specimens",
    "Summary",
    "Tally",
    "draw_specimens",
    "new_run",
    "stopped_by_signals",
]
