"""One rewrite of a program a file, named by a verb and a noun."""

if __name__ != "laudc.passes":
    raise ImportError("the folder passes is the package laudc.passes; import it by that name")

from laudc.passes.base import Pass
from laudc.plugins import Plugins

PASSES: Plugins[type[Pass]] = Plugins(package="laudc.passes", attribute="PASS", kind="pass")

__all__ = ["PASSES", "Pass"]
