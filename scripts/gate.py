# SPDX-License-Identifier: Apache-2.0
"""Chooses from which probability of its presence on a structure is shown, and writes that into the weights.

Takes an evaluation of the validation split without a gate:

  python -m monai.bundle run --config_file "['configs/train.yaml','configs/evaluate.yaml']" --dataset_dir DIR \\
      --split val --gate '$None' --output_dir eval/val
  python scripts/gate.py eval/val --weights models/model.pt

For each structure it takes the threshold with the fewest false alarms that costs at most --tolerance of mean Dice, and
writes gate.csv and gate.png (the whole trade-off) to the folder of the evaluation. With --weights the checkpoint holds
the thresholds: inference, evaluation, export and the server use them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.files import OutputFolder  # noqa: E402
from bundle.metrics import table  # noqa: E402
from bundle.networks.weights import read_checkpoint, save_checkpoint  # noqa: E402
from bundle.report.gate import draw_curves, read_curves  # noqa: E402
from bundle.tables import csv_table  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="folder of an evaluation of the validation split, without a gate")
    parser.add_argument("--weights", type=Path, help="checkpoint that the thresholds are written into")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of mean Dice (default %(default)s)")
    args = parser.parse_args(arguments)
    try:
        return _run(args.evaluation, args.weights, args.tolerance)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(evaluation: Path, weights: Path | None, tolerance: float) -> int:
    curves = read_curves(evaluation)
    gate, rows = {}, []
    lines = table(["structure", "threshold", "Dice", "with the gate", "false alarms", "with the gate"], [])
    for name, found in curves.items():
        place = found.choose(tolerance)
        if place:
            gate[name] = round(float(found.thresholds[place]), 6)
        values = (found.dice[0], found.dice[place], found.false_alarms[0], found.false_alarms[place])
        lines += table([name, str(gate.get(name, 0)), *(f"{value:.3f}" for value in values)], [])[:1]
        columns = {"threshold": found.thresholds, "dice": found.dice, "false_alarms": found.false_alarms}
        rows += [
            {"structure": name, **{key: float(values[n]) for key, values in columns.items()}}
            for n in range(len(found.thresholds))
        ]
    print("\n".join(lines))
    folder = OutputFolder(evaluation)
    for file, content in (("gate.csv", csv_table(rows)), ("gate.png", draw_curves(curves, gate))):
        print(f"written: {folder.write(file, content)}")
    if weights is not None:
        state, config = read_checkpoint(weights)
        OutputFolder(weights.parent).adopt(weights.name)  # the user names the file to be changed
        save_checkpoint(weights, model=state, network_config={**config, "gate": gate})
        print(f"written: {weights}, gate {gate}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
