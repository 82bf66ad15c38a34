"""A build worker: kernels as JSON lines in, one line of answer for each out. Started by `laudc.kernels.build`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    path, *schedule_folders = sys.argv[1:]
    import laudc.schedules
    from laudc.kernels.build import answer

    laudc.schedules.__path__ = schedule_folders
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer(line, Path(path))), file=answers, flush=True)


if __name__ == "__main__":
    main()
