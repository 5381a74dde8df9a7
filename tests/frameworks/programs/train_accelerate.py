"""Train a line with accelerate, as the mode in the first argument says."""

import json
import os
import signal
import sys

import torch
from accelerate import Accelerator

import journaltrack.integrations.accelerate  # noqa: F401 - registers "journaltrack"

MODE = sys.argv[1]


def main():
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, log_with="journaltrack")
    options = {
        "trial_component_name": "run",
        "resume": True,
        "journal": "journal",
        "sync": "off",
    }
    config = {"lr": 0.05, "model": {"layers": 1, "bias": None}, "name": "line"}
    accelerator.init_trackers("lines", config, init_kwargs={"journaltrack": options})
    model = torch.nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05))
    for step in range(6 if MODE == "resume" else 0, 12):
        loss = torch.nn.functional.mse_loss(model(x), 2 * x)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.log({"loss": loss, "half": loss.item() / 2, "text": "not a number"}, step=step)
        if accelerator.is_main_process:
            with open("reported.jsonl", "a") as file:
                file.write(json.dumps(["loss", step, loss.item()]) + "\n")
                file.write(json.dumps(["half", step, loss.item() / 2]) + "\n")
        if step == 5 and MODE == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 5 and MODE == "raise":
            raise ValueError("training went wrong")
    if MODE != "forgotten":
        accelerator.end_training()
    if MODE == "again":
        tracker = accelerator.get_tracker("journaltrack")
        tracker.log({"test": 1.0}, step=12)
        print(tracker.tracker.trial_component.status.primary_status)
        accelerator.end_training()


main()
