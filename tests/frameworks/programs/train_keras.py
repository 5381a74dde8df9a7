"""Train a line with Keras, as the mode in the first argument says."""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

from journaltrack.integrations.keras import JournaltrackCallback

MODE = sys.argv[1]


class Reporting(keras.callbacks.CSVLogger):
    """Keras' own logger, whose values are told at once."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        with open("reported.jsonl", "a") as file:
            file.writelines(
                json.dumps([name, epoch, float(value)]) + "\n" for name, value in logs.items()
            )
            file.flush()
        if MODE == "kill" and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_begin(self, batch, logs=None):
        if MODE in {"raise", "block"} and batch == 2:
            raise ValueError("training went wrong")


def main():
    keras.utils.set_random_seed(0)
    x = np.linspace(-1, 1, 32).reshape(-1, 1)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"])
    callback = JournaltrackCallback(
        trial_component_name="run",
        resume=True,
        journal="journal",
        sync="off",
        every_batches=2 if MODE == "batches" else 0,
        log_model=MODE == "model",
    )
    first = 3 if MODE == "resume" else 0
    how = {
        "batch_size": 8,
        "epochs": 5,
        "initial_epoch": first,
        "validation_data": (x, 2 * x),
        "verbose": 0,
    }
    reporting = Reporting("log.csv", append=first > 0)
    if MODE == "block":
        try:
            with callback:
                model.fit(x, 2 * x, callbacks=[callback, reporting], **how)
        except ValueError:
            os._exit(3)
    model.fit(x, 2 * x, callbacks=[callback, reporting], **how)
    if MODE == "again":
        model.evaluate(x, 2 * x, callbacks=[callback], verbose=0)
        model.fit(x, 2 * x, callbacks=[callback, reporting], **(how | {"initial_epoch": 4}))
    Path("done").touch()


main()
