"""What an experiment and a trial have in common: attributes that a journal records.

An assignment to an attribute that SageMaker can change is recorded at once, or raises. It is never
kept in memory alone until ``save``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from journaltrack.errors import ComponentNotFoundError, InvalidInputError
from journaltrack.journal import groups
from journaltrack.tracking import catalog, experiments, validation
from journaltrack.tracking.recording import items_of_pages

if TYPE_CHECKING:
    from datetime import datetime

    from typing_extensions import Self

    from journaltrack.journal.groups import GroupKind
    from journaltrack.tracking.catalog import Source
    from journaltrack.tracking.experiments import TrialSummary


class ApiObject:
    """Attributes that are boto3's members, by their names in lower case."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - boto3's members
        self.__dict__.update(kwargs)

    @classmethod
    def from_boto(cls, boto_dict: Mapping[str, Any], **kwargs: Any) -> Self:  # noqa: ANN401
        """Make one of boto3's answer, and of further attributes."""
        made = cls.__new__(cls)
        made.__dict__.update({**snake(boto_dict), **kwargs})
        return made

    @classmethod
    def to_boto(cls, obj: object) -> dict[str, Any]:
        """Return an object's attributes, or a dict, by boto3's names, without those of None."""
        members = obj if isinstance(obj, Mapping) else vars(obj)
        return {
            "".join(part.capitalize() for part in name.split("_")): value
            for name, value in members.items()
            if value is not None and name != "sagemaker_boto_client"
        }

    def with_boto(self, boto_dict: Mapping[str, Any]) -> Self:
        """Take the attributes of boto3's answer. Nothing is recorded."""
        self.__dict__.update(snake(boto_dict))
        return self

    def __repr__(self) -> str:
        known = {n: v for n, v in vars(self).items() if n != "sagemaker_boto_client"}
        members = ", ".join(f"{name}={value!r}" for name, value in known.items())
        return f"{type(self).__name__}({members})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and vars(self) == vars(other)

    def __hash__(self) -> int:
        # Of texts alone: other members may be lists.
        return hash(frozenset((n, v) for n, v in vars(self).items() if isinstance(v, str)))


class Record(ApiObject):
    """An experiment or a trial.

    Args:
        sagemaker_boto_client: Client for deliveries and questions, or None.
        **kwargs: Attributes.
    """

    _kind: ClassVar[GroupKind]
    _changeable: ClassVar[frozenset[str]]

    sagemaker_boto_client: Any = None

    def __init__(self, sagemaker_boto_client: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(sagemaker_boto_client=sagemaker_boto_client, **kwargs)

    def save(self) -> Self:
        """Deliver what was recorded, within the time of a look-up.

        Never raises for the network: what is not delivered waits for the next sync.
        """
        row = groups.row_of(self._kind, self._name)
        experiments.deliver(self._source, row)
        with catalog.reading(None) as journal:
            known = journal and journal.find(row)
        if known and known.arn:
            self.__dict__[f"{self._kind}_arn"] = known.arn
        return self

    def delete(self) -> dict[str, Any]:
        """Delete it in SageMaker, now. The journal keeps what was recorded.

        Entries that are pending make it again at the next sync.

        Raises:
            ComponentNotFoundError: SageMaker has none of that name.
            RemoteError: SageMaker could not be asked, or refuses: it may not be empty.
        """
        members = {experiments.NAME[self._kind]: self._name}
        answer = self._ask(f"delete_{self._kind}", members)
        if not answer:
            raise ComponentNotFoundError(
                f"SageMaker has no {self._kind} {self._name}; nothing was deleted",
                hint="the journal keeps what was recorded; the next sync delivers it",
            )
        return dict(answer)

    def __setattr__(self, name: str, value: object) -> None:
        if value == getattr(self, name, None):
            return
        if name not in self._changeable or value is None:
            names = ", ".join(sorted(self._changeable))
            raise InvalidInputError(
                f"{name} of the {self._kind} {self._name} can't be changed to {value!r}; "
                "nothing was recorded",
                hint=f"these can be set: {names}",
            )
        self._declare({name: value})
        self.__dict__[name] = value

    @property
    def _source(self) -> Source:
        return catalog.Source(None, self.sagemaker_boto_client)

    @property
    def _name(self) -> str:
        return validation.entity_name(self.__dict__.get(f"{self._kind}_name"), f"{self._kind} name")

    def _declare(self, members: Mapping[str, Any]) -> None:
        experiments.declare(self._source, self._kind, self._name, **members)

    @classmethod
    def _loaded(cls, name: str, client: Any) -> Self:  # noqa: ANN401
        shape = experiments.load(catalog.Source(None, client), cls._kind, name)
        return cls.from_boto(shape, sagemaker_boto_client=client)

    def _ask(self, operation: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
        return experiments.ask(self._source, operation, members)

    def _delete_trial(self, trial: str) -> None:
        """Delete a trial and its components in SageMaker."""
        listed = items_of_pages(
            self._ask, "list_trial_components", {"TrialName": trial}, "TrialComponentSummaries"
        )
        for name in [each["TrialComponentName"] for each in listed]:
            component = {"TrialComponentName": name}
            for each in [*items_of_pages(self._ask, "list_trials", component, "TrialSummaries")]:
                place = {**component, "TrialName": each["TrialName"]}
                self._ask("disassociate_trial_component", place)
            self._ask("delete_trial_component", component)
        self._ask("delete_trial", {"TrialName": trial})


class ExperimentRecord(Record):
    """An experiment, by the API of either library.

    Assigning to ``description``, ``display_name`` or ``tags`` records the new value.
    """

    _kind = "experiment"
    _changeable = frozenset({"description", "display_name", "tags"})

    experiment_name: str | None = None
    experiment_arn: str | None = None
    display_name: str | None = None
    description: str | None = None
    tags: Any = None
    creation_time: datetime | None = None
    last_modified_time: datetime | None = None

    def list_trials(
        self,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> Iterator[TrialSummary]:
        """Yield the experiment's trials: the journal's, and SageMaker's if it answers in time.

        Args:
            created_before: Only those created before this time.
            created_after: Only those created after this time.
            sort_by: "Name" or "CreationTime", the default.
            sort_order: "Ascending" or "Descending", the default.
        """
        members = {
            "ExperimentName": self.experiment_name,
            "CreatedBefore": created_before,
            "CreatedAfter": created_after,
            "SortBy": sort_by,
            "SortOrder": sort_order,
        }
        return experiments.listed(self._source, "trial", members)


def check_forced(action: object) -> None:
    """Refuse to delete everything without the word that confirms it."""
    if action != "--force":
        raise InvalidInputError(
            'delete_all needs the argument "--force": it deletes trial components, too; '
            "nothing was deleted"
        )


def name(prefix: str) -> str:
    """Return a new, unique name."""
    return f"{prefix}-{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def snake(boto_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of boto3's answer by the names that attributes have."""
    return {
        catalog.snake(name): value
        for name, value in boto_dict.items()
        if name != "ResponseMetadata"
    }
