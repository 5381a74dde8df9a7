"""Lists and searches of components: the journal's answer, SageMaker's, and both as one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from journaltrack import Journal, Tracker, TrialComponent
from journaltrack.errors import ErrorKind, InvalidInputError, InvalidTypeError, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.replay.reconciler import Reconciler
from journaltrack.testing import MemoryRemote
from journaltrack.tracking.settings import Services
from journaltrack.util import paths

UNREACHABLE = RemoteError("no route", kind=ErrorKind.TRANSIENT, code="EndpointConnectionError")


class Aws:
    """SageMaker's answers as boto3 gives them, page by page, by operation; it keeps the requests.

    An operation without an answer can't be reached.
    """

    def __init__(self, **pages):
        self.pages = pages
        self.requests = []

    def ask(self, request, operation, members):
        self.requests.append((operation, dict(members)))
        pages = self.pages.get(operation)
        if not pages:
            raise UNREACHABLE
        answer = pages.pop(0)
        return {**answer, **({"NextToken": f"page-{len(pages)}"} if pages else {})}


@pytest.fixture
def aws(monkeypatch):
    """What SageMaker answers; nothing at first."""
    made = Aws()
    monkeypatch.setattr(Tracker, "services", Services(ask=made.ask))
    return made


@pytest.fixture
def runs(aws):
    """Three runs in the default journal, made in this order."""
    made = []
    for number, (name, more) in enumerate(
        [
            ("alpha", {"experiment_name": "digits", "trial_name": "first"}),
            ("beta", {"experiment_name": "digits", "tags": {"team": "vision"}}),
            ("gamma", {}),
        ]
    ):
        tracker = Tracker.create(f"Run-{number}", trial_component_name=name, **more)
        tracker.log_parameters({"lr": 10.0**-number, "opt.name": "adam" if number else "sgd"})
        made.append(tracker)
    made[0].trial_component.status = "Completed"
    made[1].log_output("model", "s3://b/m", "text/plain")
    return made


def names(found):
    """Of components, in order."""
    return [each.trial_component_name for each in found]


def test_offline_the_journal_answers(runs):
    """A list has what the journal has, the newest first."""
    found = list(TrialComponent.list())
    assert names(found) == ["gamma", "beta", "alpha"]
    assert [each.display_name for each in found] == ["Run-2", "Run-1", "Run-0"]
    assert found[2].status.primary_status == "Completed"
    assert str(found[0]) == "gamma"


def test_without_a_journal_the_list_is_empty_and_none_is_made(aws):
    """Asking leaves no trace."""
    assert list(TrialComponent.list()) == []
    assert list(TrialComponent.search()) == []
    assert not paths.default_journal().exists()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"sort_by": "Name", "sort_order": "Ascending"}, ["alpha", "beta", "gamma"]),
        ({"sort_order": "Ascending"}, ["alpha", "beta", "gamma"]),
        ({"trial_name": "FIRST"}, ["alpha"]),
        ({"trial_name": "Default-Run-Group-digits"}, ["beta"]),
        ({"experiment_name": "digits"}, ["beta", "alpha"]),
        ({"experiment_name": "digits", "trial_name": "other"}, []),
        ({"source_arn": "arn:aws:sagemaker:eu-west-1:1:training-job/J"}, []),
        (
            {"created_after": datetime(2020, 1, 1, tzinfo=timezone.utc), "sort_by": "Name"},
            ["gamma", "beta", "alpha"],
        ),
        ({"created_before": datetime(2020, 1, 1)}, []),  # noqa: DTZ001 - local, as boto3 takes it
        ({"max_results": 1}, ["gamma", "beta", "alpha"]),
    ],
)
def test_a_list_is_filtered_and_sorted_as_sagemaker_does(runs, wanted, found):
    """By trial, experiment, job and time; `max_results` is a page's size, and all pages count."""
    assert names(TrialComponent.list(**wanted)) == found


def test_a_jobs_component_is_found_by_the_jobs_arn(runs):
    """A component that was loaded in a job belongs to that job."""
    Tracker.load(training_job_name="My-Job")
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:training-job/My-Job"
    assert names(TrialComponent.list(arn)) == ["my-job-aws-training-job"]


def test_sagemakers_pages_and_the_journal_are_one_list(runs, aws):
    """Every page is read; a component of both is there once, with SageMaker's values under those
    that are pending; a request has what was asked for and no more.
    """
    now = datetime.now(timezone.utc)
    aws.pages["list_trial_components"] = [
        {
            "TrialComponentSummaries": [
                {
                    "TrialComponentName": "Beta",
                    "TrialComponentArn": "arn:beta",
                    "DisplayName": "theirs",
                    "CreationTime": now + timedelta(days=1),
                    "Status": {"PrimaryStatus": "InProgress"},
                    "LastModifiedBy": {"UserProfileName": "u"},
                    "SomethingNew": 1,
                }
            ]
        },
        {
            "TrialComponentSummaries": [
                {
                    "TrialComponentName": "elsewhere",
                    "TrialComponentSource": {"SourceArn": "arn:job"},
                    "CreationTime": now - timedelta(days=1),
                }
            ]
        },
    ]
    runs[1].trial_component.status = "Failed"
    found = list(TrialComponent.list(max_results=1))
    assert names(found) == ["Beta", "gamma", "alpha", "elsewhere"]
    assert (found[0].trial_component_arn, found[0].display_name) == ("arn:beta", "theirs")
    assert found[0].status.primary_status == "Failed"
    assert found[0].last_modified_by == {"UserProfileName": "u"}
    assert found[3].source_arn == "arn:job"
    assert aws.requests == [
        ("list_trial_components", {"MaxResults": 1}),
        ("list_trial_components", {"MaxResults": 1, "NextToken": "page-1"}),
    ]


def test_what_was_delivered_does_not_hide_a_later_value(runs, aws):
    """Of what the journal delivered long ago, SageMaker's value counts: others may have set it."""
    component = runs[0].trial_component
    Reconciler(component.journal, MemoryRemote()).run()
    component.parameters["pending"] = 1
    aws.pages["search"] = [
        {
            "Results": [
                {
                    "TrialComponent": {
                        "TrialComponentName": "alpha",
                        "Parameters": {"lr": {"NumberValue": 9.0}},
                        "Status": {"PrimaryStatus": "Stopped"},
                    }
                },
                {"Trial": {"TrialName": "of another kind"}},
            ]
        }
    ]
    (found, *_) = TrialComponent.search(sort_by="TrialComponentName", sort_order="Ascending")
    assert found.parameters == {"lr": {"NumberValue": 9.0}, "pending": {"NumberValue": 1.0}}
    assert found.status == {"PrimaryStatus": "Stopped"}


def test_an_answer_that_breaks_off_is_completed_by_the_journal(runs, aws, caplog):
    """The pages that came and the journal are the answer, and the log says that more was there."""
    aws.pages["list_trial_components"] = [
        {"TrialComponentSummaries": [{"TrialComponentName": "a"}]}
    ]
    aws.pages["list_trial_components"].append(None)
    caplog.set_level("INFO")
    assert set(names(TrialComponent.list())) == {"a", "alpha", "beta", "gamma"}
    assert "incomplete" in caplog.text


def test_nobody_is_asked_where_syncs_are_off(runs, aws, monkeypatch):
    """A node without a network does not wait for one."""
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    assert len(list(TrialComponent.list())) == 3
    assert len(list(TrialComponent.search())) == 3
    assert aws.requests == []


EXPRESSIONS = [
    ([("Parameters.lr", "LessThan", "0.5")], ["beta", "gamma"]),
    ([("Parameters.lr", "Equals", "1")], ["alpha"]),
    ([("Parameters.lr", "GreaterThanOrEqualTo", "1e-1")], ["alpha", "beta"]),
    ([("Parameters.lr", "LessThanOrEqualTo", "0.01")], ["gamma"]),
    ([("Parameters.lr", "GreaterThan", "much")], []),
    ([("Parameters.opt.name", "Equals", "sgd")], ["alpha"]),
    ([("Parameters.opt.name", "NotEquals", "sgd")], ["beta", "gamma"]),
    ([("Parameters.absent", "Exists", None)], []),
    ([("Parameters.absent", "NotExists", None)], ["alpha", "beta", "gamma"]),
    ([("TrialComponentName", "Contains", "m")], ["gamma"]),
    ([("TrialComponentName", "In", "alpha, gamma")], ["alpha", "gamma"]),
    ([("DisplayName", None, "Run-1")], ["beta"]),
    ([("Status.PrimaryStatus", "Equals", "Completed")], ["alpha"]),
    ([("Tags.team", "Equals", "vision")], ["beta"]),
    ([("Parents.TrialName", "Equals", "first")], ["alpha"]),
    ([("Parents.ExperimentName", "Equals", "digits")], ["alpha", "beta"]),
    ([("OutputArtifacts.model", "Equals", "s3://b/m")], ["beta"]),
    ([("CreationTime", "GreaterThan", "2020-01-01T00:00:00Z")], ["alpha", "beta", "gamma"]),
    ([("CreationTime", "LessThan", "2020-01-01")], []),
    ([("Parameters.lr", "LessThan", "0.5"), ("Tags.team", "Exists", None)], ["beta"]),
]


def filters(some):
    """As SageMaker takes them."""
    return [
        {
            key: value
            for key, value in (("Name", name), ("Operator", operator), ("Value", value))
            if value is not None
        }
        for name, operator, value in some
    ]


@pytest.mark.parametrize(("wanted", "found"), EXPRESSIONS)
def test_the_journal_is_searched_by_sagemakers_rules(runs, wanted, found):
    """Operators, nested names and types of SageMaker's Search mean the same offline."""
    expression = {"Filters": filters(wanted)}
    results = TrialComponent.search(expression, "TrialComponentName", "Ascending")
    assert names(results) == found


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (("Metrics.test:acc.max", "GreaterThan", "0.8"), ["good"]),
        (("metrics.test:acc.min", "LessThan", "0.15"), ["bad"]),
        (("Metrics.test:acc", "Equals", "0.4"), ["bad"]),
        (("Metrics.v1.loss.last", "Exists", None), ["good"]),
        (("Metrics.v1.loss.count", "Equals", "1"), ["good"]),
        (("Metrics.MetricName", "Equals", "v1.loss"), ["good"]),
        (("Metrics.absent.max", "NotExists", None), ["bad", "good"]),
        (("Metrics.test:acc.TimeStamp", "GreaterThan", "2020-01-01"), ["bad", "good"]),
    ],
)
def test_metrics_are_searched_and_sorted_by_offline(aws, wanted, found):
    """As SageMaker does, by a statistic or the last value, with the property in any case."""
    for name, last in (("bad", 0.4), ("good", 0.9)):
        with Tracker.create("Run", trial_component_name=name, sync="off") as tracker:
            tracker.log_metric("test:acc", last - 0.3, iteration_number=1)
            tracker.log_metric("test:acc", last, iteration_number=2)
            if name == "good":
                tracker.log_metric("v1.loss", 1.0)
    expression = {"Filters": filters([wanted])}
    assert names(TrialComponent.search(expression, "TrialComponentName", "Ascending")) == found
    best, other = TrialComponent.search(sort_by="metrics.test:acc.max", sort_order="Descending")
    assert (best.trial_component_name, other.trial_component_name) == ("good", "bad")
    ((shown),) = other.metrics
    assert (shown["MetricName"], shown["Count"], shown["Max"]) == ("test:acc", 2, 0.4)


def test_expressions_nest(runs):
    """Alternatives, expressions in expressions, and filters that one parent must pass."""
    either = {
        "Operator": "Or",
        "Filters": filters([("Parameters.lr", None, "1"), ("Tags.team", "Exists", None)]),
    }
    assert set(names(TrialComponent.search(either))) == {"alpha", "beta"}
    both = {
        "SubExpressions": [either, {"Filters": filters([("Parameters.opt.name", None, "adam")])}]
    }
    assert names(TrialComponent.search(both)) == ["beta"]

    def of_one_parent(trial):
        some = [("Parents.ExperimentName", None, "digits"), ("Parents.TrialName", None, trial)]
        return {"NestedFilters": [{"NestedPropertyName": "Parents", "Filters": filters(some)}]}

    assert names(TrialComponent.search(of_one_parent("first"))) == ["alpha"]
    assert names(TrialComponent.search(of_one_parent("second"))) == []


def test_the_originals_expressions_are_taken(runs, aws):
    """An object with ``to_boto`` is asked for SageMaker's form, which goes out as it is."""
    aws.pages["search"] = [{"Results": []}]
    form = {"Filters": filters([("Parameters.lr", "Equals", "1")])}
    assert names(TrialComponent.search(SimpleNamespace(to_boto=lambda: form), max_results=5)) == [
        "alpha"
    ]
    assert aws.requests == [
        (
            "search",
            {"MaxResults": 5, "Resource": "ExperimentTrialComponent", "SearchExpression": form},
        )
    ]


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ({"Operator": "Xor"}, InvalidInputError),
        ({"Filters": [{"Name": "a", "Operator": "Like", "Value": "b"}]}, InvalidInputError),
        ({"Filters": [{"Value": "b"}]}, InvalidInputError),
        ({"SubExpressions": [{"Operator": "Nor"}]}, InvalidInputError),
        (
            {
                "NestedFilters": [
                    {"NestedPropertyName": "P", "Filters": [{"Name": "a", "Operator": "?"}]}
                ]
            },
            InvalidInputError,
        ),
        ("lr = 1", InvalidTypeError),
    ],
)
def test_an_expression_that_means_nothing_is_refused(aws, expression, error):
    """At the call, not when the results are read, and nobody is asked."""
    with pytest.raises(error):
        TrialComponent.search(expression)
    assert aws.requests == []


@pytest.mark.parametrize("wanted", [{"sort_by": "lr"}, {"sort_order": "down"}])
def test_an_order_that_means_nothing_is_refused(aws, wanted):
    """As AWS refuses it, before anybody is asked."""
    with pytest.raises(InvalidInputError):
        TrialComponent.list(**wanted)


def test_trials_are_those_of_the_journal_and_sagemakers(runs, aws):
    """Each trial once, whatever its case; offline those that were recorded."""
    component = runs[0].trial_component
    assert [each.trial_name for each in component.list_trials()] == ["first"]
    aws.pages["list_trials"] = [
        {"TrialSummaries": [{"TrialName": "First", "TrialArn": "arn:1", "TrialSource": {}}]},
        {"TrialSummaries": [{"TrialName": "second"}]},
    ]
    found = list(component.list_trials())
    assert [(str(each), each.trial_arn) for each in found] == [("First", "arn:1"), ("second", None)]
    assert aws.requests[0] == ("list_trials", {"TrialComponentName": "alpha"})


def test_a_crafted_component_hides_no_other(runs, caplog):
    """One that can't be read is left out, with a line in the log."""
    component = runs[2].trial_component
    payload = vocabulary.encode({"sha256": "../../etc/passwd"})
    component.journal.append(
        component.component_id, [vocabulary.Draft("component", "output", "model", payload=payload)]
    )
    assert names(TrialComponent.list()) == ["beta", "alpha"]
    assert "gamma" in caplog.text


def test_another_journal_can_be_asked(aws, tmp_path):
    """By its folder, or open."""
    Tracker.create(trial_component_name="apart", journal=tmp_path / "journal", sync="off")
    assert names(TrialComponent.list(journal=tmp_path / "journal")) == ["apart"]
    with_open = Journal.open(tmp_path / "journal")
    assert names(TrialComponent.search(journal=with_open)) == ["apart"]
    with_open.close()
    assert list(TrialComponent.list()) == []
