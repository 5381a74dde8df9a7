"""Steps of one training job, each of which loads the tracker of the job's component."""

import os

from journaltrack import Tracker

os.environ["TRAINING_JOB_ARN"] = "arn:aws:sagemaker:us-east-1:123456789012:training-job/nightly-7"

tracker = Tracker.load()
tracker.log_parameters({"epochs": 3, "data-version": "v12"})
tracker.close()

again = Tracker.load()
for name in ("params.yaml", "dvc.lock"):
    again.log_output(name, f"s3://the-bucket/{name}", "text/plain")
again.close()
print(again.trial_component.trial_component_name)
