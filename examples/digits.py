"""Train a linear classifier on scikit-learn's handwritten digits, and track all of it with
journaltrack.

The run needs no network and no credentials. It may be killed at any moment and started again with
the same arguments: it goes on from its last checkpoint, and records into the same trial component.

    python examples/digits.py --name digits-1 --epochs 40

What makes a training script safe to kill, in the order in which it happens here:

1. ``Tracker.create(trial_component_name=..., resume=True)``: the first start makes the component,
   every later one continues it. The script need not know which one it is.
2. Metrics first, checkpoint second. A kill between the two repeats one epoch, and records it again
   with the same numbers; the other order would lose the epoch's metrics.
3. A checkpoint gets its name only when it is whole on the disk.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import classification_report, confusion_matrix, log_loss
from sklearn.model_selection import train_test_split

from journaltrack import Tracker

PIXEL_MAX = 16  # the images are 8 x 8, with 17 levels of grey


@dataclass(frozen=True)
class Digits:
    """The data set, split; ``sha256`` is of all images and labels before the split."""

    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    classes: np.ndarray
    sha256: str


def main() -> None:
    """Parse the command line, train."""
    parser = argparse.ArgumentParser(
        description="Train a classifier of handwritten digits; start it again to resume."
    )
    parser.add_argument(
        "--name",
        default="digits",
        help="name of the trial component, the same at each start (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=40,
        help="passes over the training data in all (default: %(default)s)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=1e-4,
        help="strength of the L2 penalty (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=0.01, help="size of a step (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split and the shuffling (default: %(default)s)"
    )
    parser.add_argument(
        "--journal", help="folder of the journal (default: journaltrack's default journal)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="folder of what is written (default: %(default)s)",
    )
    options = parser.parse_args()
    hyper_parameters = {
        "alpha": options.alpha,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }

    options.checkpoint.mkdir(parents=True, exist_ok=True)
    with Tracker.create(
        "Handwritten-digits",
        trial_component_name=options.name,
        resume=True,
        journal=options.journal,
    ) as tracker:
        train(tracker, hyper_parameters, options.epochs, options.checkpoint)


def train(tracker: Tracker, hyper_parameters: dict[str, Any], epochs: int, folder: Path) -> None:
    """Train from the last checkpoint in ``folder``, or from the beginning, to the last of
    ``epochs``.
    """
    digits = load(hyper_parameters["seed"])
    tracker.log_parameters(
        {"model": "SGDClassifier", "loss": "log_loss", "epochs": epochs, **hyper_parameters}
    )
    tracker.log_parameters(
        {
            "train_images": len(digits.train_labels),
            "test_images": len(digits.test_labels),
            "classes": len(digits.classes),
        }
    )
    tracker.log_input(
        "dataset",
        f"sklearn.datasets.load_digits?sha256={digits.sha256}",
        media_type="application/x-numpy-data",
    )

    model, done = load_checkpoint(folder, hyper_parameters)
    print(
        f"resuming after epoch {done} of {epochs}" if done else f"starting, {epochs} epochs to go",
        flush=True,
    )
    for epoch in range(done + 1, epochs + 1):
        # Shuffled by seed and epoch alone: a resumed run sees the same order as one that was never
        # killed.
        order = np.random.default_rng((hyper_parameters["seed"], epoch)).permutation(
            len(digits.train_labels)
        )
        model.partial_fit(
            digits.train_images[order], digits.train_labels[order], classes=digits.classes
        )
        metrics = evaluate(model, digits)
        tracker.log_metrics(metrics, iteration_number=epoch)
        # The call has returned: these numbers now survive a SIGKILL. Only now does the script claim
        # that they are recorded.
        print(
            f"epoch {epoch} recorded "
            + " ".join(f"{name}={value!r}" for name, value in metrics.items()),
            flush=True,
        )
        save_checkpoint(folder, model, epoch, hyper_parameters)

    for path in write_results(model, digits, folder):
        tracker.log_artifact(str(path))
        print(f"artifact {path.name} recorded", flush=True)


def load(seed: int) -> Digits:
    """The data set that comes with scikit-learn, a quarter of it for testing."""
    images, labels = load_digits(return_X_y=True)
    sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    split = train_test_split(
        images / PIXEL_MAX, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    return Digits(*split, classes=np.unique(labels), sha256=sha256)


def evaluate(model: SGDClassifier, digits: Digits) -> dict[str, float]:
    """Loss (mean negative log-likelihood) and accuracy (a fraction), on both parts of the data."""
    metrics = {}
    for part, images, labels in (
        ("train", digits.train_images, digits.train_labels),
        ("test", digits.test_images, digits.test_labels),
    ):
        metrics[f"{part}:loss"] = float(
            log_loss(labels, model.predict_proba(images), labels=digits.classes)
        )
        metrics[f"{part}:accuracy"] = float(model.score(images, labels))
    return metrics


def write_results(model: SGDClassifier, digits: Digits, folder: Path) -> list[Path]:
    """The confusion matrix, the report per class, and the model, as files."""
    predicted = model.predict(digits.test_images)
    matrix = folder / "confusion-matrix.csv"
    with matrix.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *digits.classes])
        for label, row in zip(
            digits.classes,
            confusion_matrix(digits.test_labels, predicted, labels=digits.classes),
            strict=True,
        ):
            writer.writerow([label, *row])
    report = folder / "classification-report.json"
    report.write_text(
        json.dumps(
            classification_report(digits.test_labels, predicted, output_dict=True), indent=2
        ),
        encoding="utf-8",
    )
    fitted = folder / "model.joblib"
    joblib.dump(model, fitted)
    return [matrix, report, fitted]


def load_checkpoint(folder: Path, hyper_parameters: dict[str, Any]) -> tuple[SGDClassifier, int]:
    """The model and how many epochs it has seen; a new model and 0 without a checkpoint.

    Raises:
        SystemExit: The checkpoint is of a run with other hyper-parameters.
    """
    path = folder / "checkpoint.joblib"
    if not path.exists():
        return SGDClassifier(
            loss="log_loss",
            alpha=hyper_parameters["alpha"],
            learning_rate="constant",
            eta0=hyper_parameters["learning_rate"],
            shuffle=False,
        ), 0
    checkpoint = joblib.load(path)  # joblib is pickle: load checkpoints of your own alone
    if checkpoint["hyper_parameters"] != hyper_parameters:
        message = (
            f"{path} is of a run with {checkpoint['hyper_parameters']}: choose another "
            "--checkpoint and --name, or the same values"
        )
        raise SystemExit(message)
    return checkpoint["model"], checkpoint["epoch"]


def save_checkpoint(
    folder: Path, model: SGDClassifier, epoch: int, hyper_parameters: dict[str, Any]
) -> None:
    """Write a checkpoint atomically: after a kill there is the old one or the new one, never
    half of one.
    """
    partial = folder / "checkpoint.joblib.partial"
    with partial.open("wb") as file:
        joblib.dump({"model": model, "epoch": epoch, "hyper_parameters": hyper_parameters}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / "checkpoint.joblib")


if __name__ == "__main__":
    main()
