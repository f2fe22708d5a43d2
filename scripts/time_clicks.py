# SPDX-License-Identifier: Apache-2.0
"""Time the answers of a running MONAI Label server to clicks: HTTP request out, mask and classes in."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

EPILOG = """\
example (docs/monai_label.md tells how to start the server):
  python scripts/time_clicks.py http://127.0.0.1:8000 --image breast_1000x800 --size 1000 800 --structure lesion
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", help="address, such as http://127.0.0.1:8000")
    parser.add_argument("--image", required=True, help="id of a study in the server's datastore")
    parser.add_argument("--size", required=True, type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="of that image")
    parser.add_argument("--model", default="ultrasound_uperconvnext_deepedit", help="default: %(default)s")
    parser.add_argument("--structure", default="lesion", help="what is clicked at (default: %(default)s)")
    parser.add_argument("--clicks", type=int, default=3, help="clicks in each request (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=100, help="number of requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the clicks' places (default: %(default)s)")
    options = parser.parse_args(arguments)
    places, times = random.Random(options.seed), []
    try:
        for number in range(options.requests + 3):  # the first three warm up
            clicks = [
                [places.randrange(options.size[0]), places.randrange(options.size[1]), 0] for _ in range(options.clicks)
            ]
            elapsed = _ask(options, {options.structure: clicks, "background": []})
            times += [elapsed] if number >= 3 else []
    except (urllib.error.URLError, OSError) as error:
        print(f"error: {options.server} must answer for {options.image}, got: {error}", file=sys.stderr)
        return 2
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    shown = {"median": cuts[49], "5 %": cuts[4], "25 %": cuts[24], "75 %": cuts[74], "95 %": cuts[94], "99 %": cuts[98]}
    print(f"{len(times)} requests, milliseconds: " + ", ".join(f"{k} {v * 1000:.0f}" for k, v in shown.items()))
    return 0


def _ask(options: argparse.Namespace, params: dict[str, object]) -> float:
    """Seconds until the whole answer to one request is here."""
    query = urllib.parse.urlencode({"image": options.image, "output": "all"})
    request = urllib.request.Request(
        f"{options.server}/infer/{options.model}?{query}",
        data=urllib.parse.urlencode({"params": json.dumps(params)}).encode(),
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
