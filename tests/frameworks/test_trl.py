"""The callback of transformers in a trainer of TRL."""

from __future__ import annotations

from collections import Counter

from journaltrack.integrations.transformers import _metric


def test_every_value_that_sft_reports_is_delivered(training):
    """The trainer's own metrics, such as the accuracy of tokens, are points like the others."""
    train = training("train_trl.py")
    train("train")
    reported = Counter(
        {(_metric(name), step, value): n for (name, step, value), n in train.reported().items()}
    )
    assert any("token" in name for name, _, _ in reported)
    assert train.recorded("train/epoch") == reported
    sent, component = train.delivered("train/epoch")
    assert sent == reported
    assert component.parameters["max_length"] == {"NumberValue": 8}
