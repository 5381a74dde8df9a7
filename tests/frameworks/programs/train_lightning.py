"""Train a line with Lightning, as the mode in the first argument says."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from journaltrack.integrations.lightning import JournaltrackLogger

MODE = sys.argv[1]
LOGGERS = []
warnings.simplefilter("ignore")


class Odd:
    """A hyperparameter without a text."""

    def __repr__(self):
        raise RuntimeError("no text")


class Line(lightning.LightningModule):
    """Finds y = 2x, and logs as training code does."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        hyper = {"lr": 0.1, "nested": {"a": {"b": None}, "layers": [1, 2]}}
        if MODE == "hostile":
            hyper |= {"odd": Odd(), "nan": float("nan"), "long": "x" * 3_000, "object": object}
            hyper |= {f"many_{number}": number for number in range(400)}
        self.save_hyperparameters(hyper)

    def training_step(self, batch, number):
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.layer(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("nan", float("nan"))
        if MODE == "raise" and self.global_step == 5:
            raise ValueError("training went wrong")
        if MODE == "interrupt" and self.global_step == 5:
            raise KeyboardInterrupt
        return loss

    def validation_step(self, batch, number):
        x, y = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(x), y))

    def test_step(self, batch, number):
        """Log the loss of a batch in a test."""
        x, y = batch
        self.log("test_loss", torch.nn.functional.mse_loss(self.layer(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Reporting(CSVLogger):
    """Lightning's own logger, whose rows are told at once."""

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step)
        with open("reported.jsonl", "a") as file:
            for name, value in metrics.items():
                if name != "epoch":
                    file.write(json.dumps([name, step, value]) + "\n")
            file.flush()
        if MODE == "kill" and step is not None and step >= 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if MODE == "requeue" and step is not None and step >= 5:
            # What Lightning does on Slurm's signal, before it saves a checkpoint.
            LOGGERS[0].finalize("finished")
            os._exit(7)


def data():
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    dataset = torch.utils.data.TensorDataset(x, 2 * x)
    return torch.utils.data.DataLoader(dataset, batch_size=8)


def main():
    torch.manual_seed(0)
    checkpoints = {"all": "all", "best": "best", "last": "last"}.get(MODE, False)
    logger = JournaltrackLogger(
        trial_component_name="run",
        resume=True,
        journal="journal",
        sync="off",
        log_checkpoints=checkpoints,
    )
    # Ours first: what the framework reports of a step is in the journal when the process is killed.
    LOGGERS[:] = loggers = [logger, Reporting("csv")]
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=2 if MODE == "spawn" else ranks,
        strategy="ddp_spawn" if MODE == "spawn" else "ddp" if ranks > 1 else "auto",
        logger=loggers,
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            ModelCheckpoint(dirpath="ckpt", monitor="val_loss", save_last=True, save_top_k=2)
        ],
    )
    model = Line()
    last = "ckpt/last.ckpt" if MODE == "resume" and Path("ckpt/last.ckpt").exists() else None
    trainer.fit(model, data(), data(), ckpt_path=last)
    if MODE == "again":
        trainer.test(model, data())
        trainer.fit_loop.max_epochs = 5
        trainer.fit(model, data(), data())
    if MODE == "places":
        print(json.dumps([logger.name, logger.version, logger.log_dir, trainer.log_dir]))
        logger.experiment.log_parameter("own", 1)


if __name__ == "__main__":
    main()
