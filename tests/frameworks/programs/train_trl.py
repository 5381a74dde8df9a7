"""Train a tiny language model with TRL's SFTTrainer, with a tokenizer made here."""

import json
import sys
import warnings

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from journaltrack.integrations.transformers import JournaltrackCallback

warnings.simplefilter("ignore")
WORDS = ["<pad>", "<eos>", "a", "b", "c", "d"]


class Reporting(TrainerCallback):
    """Tells what the trainer logs."""

    def on_log(self, args, state, control, logs=None, **_):
        with open("reported.jsonl", "a") as file:
            file.writelines(
                json.dumps([name, state.global_step, value]) + "\n"
                for name, value in logs.items()
                if name != "epoch"
            )


def main():
    torch.manual_seed(0)
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, "<pad>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    config = GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=2, n_positions=16)
    trainer = SFTTrainer(
        model=GPT2LMHeadModel(config),
        args=SFTConfig(
            "out",
            max_steps=3,
            logging_steps=1,
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_length=8,
        ),
        train_dataset=Dataset.from_dict({"text": ["a b c d", "b c d a"] * 4}),
        processing_class=tokenizer,
        callbacks=[
            JournaltrackCallback(trial_component_name="run", journal="journal", sync="off"),
            Reporting(),
        ],
    )
    trainer.train()


assert sys.argv[1] == "train"
main()
