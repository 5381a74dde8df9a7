"""The charts and the table of an evaluation, with the tracker of a component that exists."""

from journaltrack import Tracker

truth = [0, 0, 1, 1, 1, 0]
scores = [0.1, 0.4, 0.35, 0.8, 0.9, 0.2]
names = ["no" if score < 0.5 else "yes" for score in scores]

with Tracker.load("evaluation", artifact_bucket="the-bucket") as tracker:
    tracker.log_roc_curve(truth, scores, title="ROC-of-the-test-set")
    tracker.log_precision_recall(truth, scores, title="PR", output_artifact=False)
    tracker.log_confusion_matrix(["no", "no", "yes", "yes", "yes", "no"], names, "Matrix")
    tracker.log_table(title="Errors", values={"row": [2, 3], "score": [0.35, 0.8]})
    tracker.log_parameter("threshold", 0.5)
