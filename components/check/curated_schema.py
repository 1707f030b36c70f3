"""`CuratedSchema`: a curated schema as the artifact that a table is held against."""

from tfx.components.schema_gen.import_schema_gen import executor
from tfx.types import standard_artifacts

from components.component import Component


class CuratedSchema(Component):
    """TFX's ImportSchemaGen, whose cache would go on to enforce what the file was.

    Args:
        schema_file: the file.
        contents_hash: of its contents, so that an edit is not served from the cache.
    """

    EXECUTOR = executor.Executor
    PARAMETERS = {"schema_file": str, "contents_hash": str}
    OUTPUTS = {"schema": standard_artifacts.Schema}
