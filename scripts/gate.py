# SPDX-License-Identifier: Apache-2.0
"""Chooses from which probability of its presence on a structure is shown, and writes that into the weights.

Takes an evaluation of the validation split without a gate:

  python -m monai.bundle run --config_file "['configs/train.yaml','configs/evaluate.yaml']" --dataset_dir DIR \\
      --split val --gate '$None' --output_dir eval/val
  python scripts/gate.py eval/val --weights models/model.pt

For each structure it takes the threshold with the fewest false alarms that costs at most --tolerance of mean Dice. With
--remaining it takes a milder one, which loses fewer lesions on new data: the lowest threshold within the tolerance with
at most this share of the false alarms without a gate (0.5: half of them may remain).

It writes gate.csv and gate.png (the whole trade-off) to the folder of the evaluation. With --weights, the evaluated
checkpoint holds the thresholds: inference, evaluation, export and the server use them. Structures that are not in this
evaluation keep the threshold that the checkpoint holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.metrics import table  # noqa: E402
from bundle.networks.weights import save_checkpoint  # noqa: E402
from bundle.report.gate import Curve, draw_curves, read_curves, read_summary, read_weights  # noqa: E402
from bundle.tables import csv_table  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="folder of an evaluation of the validation split, without a gate")
    parser.add_argument("--weights", type=Path, help="checkpoint that the thresholds are written into")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of mean Dice, 0 to 1 (default %(default)s)")
    parser.add_argument(
        "--remaining",
        type=float,
        default=0.0,
        help="share of the false alarms, 0 to 1 (default %(default)s: the fewest)",
    )
    args = parser.parse_args(arguments)
    try:
        return _run(args.evaluation, args.weights, args.tolerance, args.remaining)
    except Exception as error:
        return failed(error, status=2)


def _run(evaluation: Path, weights: Path | None, tolerance: float, remaining: float) -> int:
    summary, curves = read_summary(evaluation), read_curves(evaluation)
    places = {name: found.choose(tolerance, remaining) for name, found in curves.items()}
    gate = {name: round(float(curves[name].thresholds[place]), 6) for name, place in places.items() if place}
    held = read_weights(weights, summary) if weights is not None else None
    if held is not None and (unknown := set(gate) - set(held[1].get("structures", ())[1:])):
        raise ValueError(
            f"{evaluation}: structures of {weights} expected, got {sorted(unknown)} in its tables; evaluate these"
            " weights."
        )
    folder = OutputFolder(evaluation)
    folder.check(["gate.csv", "gate.png"])
    lines = table(["structure", "threshold", "Dice", "with the gate", "false alarms", "with the gate"], [])
    for name, found in curves.items():
        values = (found.dice[0], found.dice[places[name]], found.false_alarms[0], found.false_alarms[places[name]])
        lines += table([name, str(gate.get(name, 0)), *(f"{value:.3f}" for value in values)], [])[:1]
    print("\n".join(lines))
    for file, content in (("gate.csv", _trade_off(curves)), ("gate.png", draw_curves(curves, gate))):
        print(f"written: {folder.write(file, content)}")
    if weights is not None and held is not None:
        state, config = held
        gate = {**{name: least for name, least in (config.get("gate") or {}).items() if name not in curves}, **gate}
        mode = weights.stat().st_mode
        OutputFolder(weights.parent).adopt(weights.name)  # the user names the file to be changed
        save_checkpoint(weights, model=state, network_config={**config, "gate": gate})
        weights.chmod(mode)
        print(f"written: {weights}, gate {gate}")
    return 0


def _trade_off(curves: Mapping[str, Curve]) -> bytes:
    rows = []
    for name, found in curves.items():
        columns = {"threshold": found.thresholds, "dice": found.dice, "false_alarms": found.false_alarms}
        rows += [
            {"structure": name, **{key: float(values[n]) for key, values in columns.items()}}
            for n in range(len(found.thresholds))
        ]
    return csv_table(rows)


if __name__ == "__main__":
    sys.exit(main())
