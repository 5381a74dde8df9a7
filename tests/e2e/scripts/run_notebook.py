"""A notebook's run: parameters, points of training and test, files, references and charts."""

from pathlib import Path

from journaltrack.compat.sagemaker.experiments import Run

Path("train.csv").write_text("5,0\n6,1\n")
Path("Model.bin").write_bytes(bytes(range(64)))

with Run(
    experiment_name="Digits-Notebook",
    run_name="First-Try",
    experiment_display_name="Digits",
    run_display_name="The-first-try",
    tags=[{"Key": "team", "Value": "vision"}],
    artifact_bucket="the-bucket",
    artifact_prefix="notebooks",
) as run:
    run.log_parameter("epochs", 12)
    run.log_parameters({"lr": 0.01, "optimizer": "adam", "batch": 64})
    run.log_file("train.csv", name="training-data", is_output=False)
    run.log_artifact(name="images", value="s3://the-bucket/images/", is_output=False)
    for epoch in range(12):
        loss = 1 / (epoch + 1)
        run.log_metric(name="train:loss", value=loss, step=epoch)
        run.log_metric(name="test:accuracy", value=1 - loss / 2, step=epoch)
    truth = [int(number % 3 == 0) for number in range(40)]
    scores = [true * 0.4 + number * 7 % 11 / 20 for number, true in enumerate(truth)]
    guesses = [int(score > 0.5) for score in scores]
    run.log_precision_recall(truth, scores, positive_label=1, title="precision-recall", no_skill=0)
    run.log_roc_curve(truth, scores, title="roc")
    run.log_confusion_matrix(truth, guesses, title="confusion", is_output=False)
    run.log_file("Model.bin", name="model", media_type="application/octet-stream")
    run.log_artifact("endpoint", "https://models.example.com/digits", "text/html")

print(run.experiment_config)
