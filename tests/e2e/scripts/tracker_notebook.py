"""A notebook that tracks how it prepares its data, and what it trains with."""

from journaltrack import Tracker

with Tracker.create(display_name="Preprocessing") as tracker:
    tracker.log_parameters({"mean": 0.1307, "std": 0.3081})
    tracker.log_input(name="mnist", media_type="s3/uri", value="s3://the-bucket/mnist/")

tracker = Tracker.create(display_name="Training")
tracker.log_parameter("hidden-channels", 20)
tracker.log_parameters({"optimizer": "sgd", "dropout": 0.2})
tracker.log_output("model", "s3://the-bucket/models/mnist.tar.gz", "application/x-tar")
tracker.close()
print(tracker.trial_component.display_name, sorted(tracker.trial_component.parameters))
