"""AWS's limits: the numbers that botocore's models state, those that only we state, and the
checks that use them.
"""

from __future__ import annotations

import botocore.loaders
import pytest

from journaltrack import limits


@pytest.fixture(scope="module")
def shapes():
    """The shapes of the two services that we send to, from the botocore that is installed."""
    loader = botocore.loaders.Loader()
    models = [
        loader.load_service_model(service, "service-2")["shapes"]
        for service in ("sagemaker", "sagemaker-metrics")
    ]
    return {**models[0], **{f"metrics.{name}": shape for name, shape in models[1].items()}}


@pytest.mark.parametrize(
    ("shape", "limit"),
    [
        ("ExperimentEntityName", limits.NAME_CHARS_MAX),
        ("TrialComponentParameters", limits.PARAMETERS_MAX),
        ("TrialComponentKey320", limits.PARAMETER_KEY_CHARS_MAX),
        ("StringParameterValue", limits.PARAMETER_STRING_CHARS_MAX),
        ("TrialComponentArtifacts", limits.ARTIFACTS_MAX),
        ("TrialComponentKey128", limits.ARTIFACT_KEY_CHARS_MAX),
        ("TrialComponentArtifactValue", limits.ARTIFACT_VALUE_CHARS_MAX),
        ("MediaType", limits.MEDIA_TYPE_CHARS_MAX),
        ("TrialComponentStatusMessage", limits.STATUS_MESSAGE_CHARS_MAX),
        ("TagList", limits.TAGS_MAX),
        ("TagKey", limits.TAG_KEY_CHARS_MAX),
        ("TagValue", limits.TAG_VALUE_CHARS_MAX),
        ("metrics.MetricName", limits.METRIC_NAME_CHARS_MAX),
        ("metrics.RawMetricDataList", limits.METRICS_PER_REQUEST_MAX),
    ],
)
def test_limits_are_those_of_botocores_models(shapes, shape, limit):
    """A limit that AWS changes is noticed with the next botocore."""
    assert shapes[shape]["max"] == limit


def test_patterns_are_those_of_botocores_models(shapes):
    """Names and media types are checked by the very expressions of the models."""
    assert limits.NAME_PATTERN.pattern in shapes["ExperimentEntityName"]["pattern"]
    assert limits.MEDIA_TYPE_PATTERN.pattern in shapes["MediaType"]["pattern"].replace(r"\/", "/")


def test_limits_that_no_model_states():
    """Bounds of the original library and of 32 bits: another number would shift or refuse other
    points.
    """
    assert (limits.METRIC_AGE_MAX_S, limits.METRIC_AHEAD_MAX_S) == (14 * 86_400, 2 * 3_600)
    assert (limits.STEP_MAX, limits.JOURNAL_NS_MAX) == (2_147_483_647, 9_223_372_036_854_775_807)
    assert (limits.TIMESTAMP_NS_MAX, limits.BUFFERED_ENTRIES_MAX) == (
        253_402_300_799_999_999_999,
        100_000,
    )


@pytest.mark.parametrize(
    "name", ["a" + "-" * 119 + "b", "a-" * 60 + "b", "x" * 121, "a" + "-" * 100_000 + "b"]
)
def test_a_name_of_more_than_120_characters_is_refused_with_hyphens_in_it_too(name):
    """The pattern counts letters alone: a name that fits it can still be too long, and is
    refused in no time.
    """
    assert limits.name_problem(name, "name") is not None
    assert limits.name_problem(limits.suggested_name(name), "name") is None


@pytest.mark.parametrize("name", ["a", "x" * 120, "a" + "-" * 118 + "b", "Run-1"])
def test_names_that_sagemaker_takes_pass(name):
    """Up to 120 characters; such a name is its own suggestion."""
    assert limits.name_problem(name, "name") is None
    assert limits.suggested_name(name).replace("-", "") == name.replace("-", "")


@pytest.mark.parametrize(
    "name",
    [
        "My Run_1.2",
        "-a-",
        "",
        "---",
        "réseau profond",
        "运行",
        "a\nb",
        "x" * 119 + "-" + "yz",
        "\ud800",
        "lr=0.1",
    ],
)
def test_every_suggestion_can_be_used(name):
    """Whatever was given, what the error proposes is accepted."""
    assert limits.name_problem(limits.suggested_name(name), "name") is None


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "x" * 64,
        "My-Bucket",
        "my_bucket",
        "my bucket",
        "-bucket",
        "bucket-",
        ".bucket",
        "bucket.",
        "a..b",
        "192.168.5.4",
        "xn--bucket",
        "sthree-bucket",
        "amzn-s3-demo-bucket",
        "s3://bucket",
        "s3://bucket/prefix",
        "bucket/prefix",
        "bücket",
        "bucket\n",
    ],
)
def test_names_that_no_bucket_can_have(name):
    """S3's naming rules, one by one."""
    assert limits.bucket_problem(name) is not None


@pytest.mark.parametrize(
    "name",
    ["abc", "x" * 63, "my.bucket-1", "1.2.3", "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"],
)
def test_names_that_a_bucket_can_have(name):
    """Also an access point's ARN, which S3 takes in a bucket's place."""
    assert limits.bucket_problem(name) is None


@pytest.mark.parametrize(
    "number",
    [0, -7, 2**63, 10**4_299, 10**5_000 + 7, -(10**5_000)],
    ids=lambda number: f"{number.bit_length()} bits",
)
def test_an_integer_has_all_its_digits(number):
    """Also one that ``str`` refuses to convert."""
    text = limits.digits(number)
    folded = 0
    for digit in text.lstrip("-"):
        folded = folded * 10 + int(digit)
    assert (-folded if text[0] == "-" else folded) == number


@pytest.mark.parametrize(
    ("key_chars", "value_chars", "is_good"),
    [(1, 0, True), (128, 256, True), (0, 0, False), (129, 0, False), (1, 257, False)],
)
def test_a_tag_may_be_as_long_as_sagemaker_takes_it(key_chars, value_chars, is_good):
    """The last length that is taken, and the first one that is not."""
    assert (limits.tag_problem("k" * key_chars, "v" * value_chars) is None) == is_good


@pytest.mark.parametrize(
    ("key", "is_good"), [("aws:x", False), ("AwS:", False), ("aws", True), ("x:aws:", True)]
)
def test_keys_of_tags_that_aws_reserves_are_refused(key, is_good):
    """In any case; a value may begin so."""
    assert (limits.tag_problem(key, "aws:v") is None) == is_good


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("team/größe 数 ٣_.:/=+-@", True),
        ("a\xa0b\u3000c\u2028d", True),
        ("aws", True),
        *((f"a{character}b", False) for character in "\n\r\t\x0b\x1c\x85\x00*'?"),
    ],
)
def test_a_tag_has_letters_numbers_separators_and_few_signs(text, is_good):
    r"""AWS's pattern has ``\p{Z}``: Python's ``\s`` takes line breaks and tabs as well, which AWS
    refuses with the whole creation.
    """
    assert (limits.tag_problem(text, "v") is None) == is_good
    assert (limits.tag_problem("k", text) is None) == is_good


@pytest.mark.parametrize(
    ("timestamp_ns", "is_good"),
    [
        (None, True),
        (0, True),
        (-1, False),
        (limits.TIMESTAMP_NS_MAX, True),
        (limits.TIMESTAMP_NS_MAX + 1, False),
    ],
)
def test_a_time_is_between_1970_and_9999(timestamp_ns, is_good):
    """The first and the last nanosecond that can be sent, and those before and after."""
    assert (limits.time_problem(timestamp_ns, "time") is None) == is_good
