"""One kernel family a file."""

if __name__ != "laudc.schedules":
    raise ImportError("the folder schedules is the package laudc.schedules; import it by that name")

from laudc.plugins import Plugins
from laudc.schedules._demand import Active, Demand
from laudc.schedules.base import Choice, Lowered, Schedule, Work

SCHEDULES: Plugins[Schedule] = Plugins(package="laudc.schedules", attribute="SCHEDULE", kind="schedule")

__all__ = ["SCHEDULES", "Active", "Choice", "Demand", "Lowered", "Schedule", "Work"]
