"""How much of what the table check tolerates. Light: a run file nests it."""

from typing import ClassVar

import pydantic

from models.names.settings import Names, Settings, Share


class Thresholds(Settings):
    """How much of what is tolerated.

    Attributes:
        max_duplicate_share: of the events, the same user, item and time as another.
        max_future_share: of the events, later than `future_seconds` from now.
        future_seconds: how far a clock may be ahead.
        max_unknown_item_share: of the events, on items that a non-empty items table does not have.
        max_unknown_user_share: of the events, of users whom a non-empty users table does not have.
        max_no_id_share: of the events, and of the rows of the items and users tables, with an id
            that stands for none, such as NA, null, nan or None.
        min_user_events: how many events a user should have.
        max_users_under_minimum_share: of the users, with fewer.
        max_duplicate_id_share: of the rows of the items and users tables, with an id that came
            before.
        allowed_anomalies: anomalies to let pass, as `table.column`.
    """

    SECTION: ClassVar[str] = "check"

    max_duplicate_share: Share = 0.01
    max_future_share: Share = 0.0
    future_seconds: int = 86_400
    max_unknown_item_share: Share = 0.05
    max_unknown_user_share: Share = 0.05
    max_no_id_share: Share = 0.01
    min_user_events: int = 1
    max_users_under_minimum_share: Share = 0.0
    max_duplicate_id_share: Share = 0.0
    allowed_anomalies: Names = pydantic.Field((), examples=["events.rating"])
