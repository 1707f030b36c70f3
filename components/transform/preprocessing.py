"""The function that the Transform component is given."""

from typing import Any

from components.transform import vocabularies
from models.inputs import preprocessing


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """`models.inputs.preprocessing.preprocessing_fn`, its vocabularies fitted by Beam in one pass.

    Args:
        inputs: raw columns of the train rows.
        custom_config: see there.
    """
    return preprocessing.preprocessing_fn(inputs, custom_config, vocabularies.fit)
