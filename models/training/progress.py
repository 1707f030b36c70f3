"""Progress that a person can read."""

import sys


def describe(row: dict) -> str:
    """One line of progress."""
    parts = [f"{row['stage']} epoch {row['epoch']:>3}  {row['seconds']:6.1f} s"]
    if row["loss"] is not None:
        parts.append(f"loss {row['loss']:.4f}  {row['examples_per_second']:,.0f} examples/s")
    parts += [
        f"{name} {row[name]:.4f}"
        for name in ("hr_10", "ndcg_10", "group_ndcg_10", "auc", "log_loss", "rmse")
        if name in row
    ]
    return "  ".join(parts)


def say(line: str) -> None:
    """Prints progress at once, past any buffering."""
    print("  " + line, file=sys.stdout, flush=True)
