"""Search training jobs, which only SageMaker knows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from journaltrack.compat.smexperiments import _base_types
from journaltrack.compat.smexperiments.api_types import TrainingJobSearchResult
from journaltrack.tracking import catalog, experiments, search_rules
from journaltrack.tracking.recording import items_of_pages


class TrainingJob(_base_types.ApiObject):
    """Training jobs, to search for."""

    def __init__(self, sagemaker_boto_client: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(sagemaker_boto_client=sagemaker_boto_client, **kwargs)

    @classmethod
    def search(
        cls,
        search_expression: Any = None,  # noqa: ANN401 - a SearchExpression, or a dict
        sort_by: str | None = None,
        sort_order: str | None = None,
        max_results: int | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Iterator[TrainingJobSearchResult]:
        """Yield the training jobs that an expression fits.

        Raises:
            RemoteError: SageMaker does not answer. No journal knows jobs.
        """
        members = catalog.present(
            Resource="TrainingJob",
            SearchExpression=search_rules.expression_of(search_expression) or None,
            SortBy=sort_by,
            SortOrder=sort_order,
            MaxResults=max_results,
        )
        ask = partial(experiments.ask, catalog.Source(None, sagemaker_boto_client))
        for each in items_of_pages(ask, "search", members, "Results"):
            if "TrainingJob" in each:
                yield TrainingJobSearchResult.from_boto(each["TrainingJob"])
