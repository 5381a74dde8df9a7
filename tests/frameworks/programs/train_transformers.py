"""Train a tiny model with transformers' Trainer, as the mode in the first argument says."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from journaltrack.integrations.transformers import JournaltrackCallback

MODE = sys.argv[1]
warnings.simplefilter("ignore")


class Reporting(TrainerCallback):
    """Tells what the Trainer logs, as its own callbacks get it."""

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero:
            return
        with open("reported.jsonl", "a") as file:
            for name, value in logs.items():
                if name != "epoch":
                    file.write(json.dumps([name, state.global_step, value]) + "\n")
            file.flush()
        if MODE == "kill" and state.global_step >= 4:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args, state, control, **_):
        if MODE == "raise" and state.global_step == 4:
            raise ValueError("training went wrong")


def data():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30, (16, 6), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > 15)} for row in ids]


def model():
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=30, intermediate_size=8, **size))


def main():
    callback = JournaltrackCallback(
        trial_component_name="run",
        resume=True,
        journal="journal",
        sync="off",
        log_checkpoints=MODE if MODE in {"last", "best", "all"} else False,
    )
    arguments = TrainingArguments(
        output_dir="out",
        run_name="tiny bert",
        num_train_epochs=3,
        per_device_train_batch_size=8,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=MODE == "best",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        hub_token="hf_secret",
    )
    options = {"train_dataset": data(), "eval_dataset": data(), "args": arguments}
    trainer = Trainer(model=model(), callbacks=[callback, Reporting()], **options)
    saved = sorted(Path("out").glob("checkpoint-*")) if MODE == "resume" else []
    if MODE == "search":
        search = Trainer(model_init=model, callbacks=[callback], **options)
        search.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3)},
            n_trials=2,
            backend="optuna",
        )
        return
    if MODE == "caught":
        trainer.callback_handler.callbacks[-1].on_step_end = fail
        try:
            trainer.train()
        except ValueError:
            sys.exit(3)
    if MODE == "block":
        trainer.callback_handler.callbacks[-1].on_step_end = fail
        try:
            with callback:
                trainer.train()
        except ValueError:
            os._exit(3)
    trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    if MODE == "again":
        trainer.evaluate()
        trainer.train()


def fail(args, state, control, **_):
    raise ValueError("training went wrong")


main()
