"""A project that keeps its files with its run: into a bucket and a prefix of its own."""

from pathlib import Path

from journaltrack import Tracker

Path("settings.yaml").write_text("rate: 0.1\n")
Path("weights.bin").write_bytes(b"\x00\x01" * 100)
Path("plots").mkdir()
Path("plots/loss.txt").write_text("3 2 1\n")

tracker = Tracker.create(
    display_name="boilerplate", artifact_bucket="the-bucket", artifact_prefix="project"
)
with tracker:
    tracker.log_input_artifact("settings.yaml", name="settings", media_type="text/yaml")
    tracker.log_output_artifact("weights.bin", "weights", "application/octet-stream")
    tracker.log_artifact("plots/loss.txt", name="loss")
