"""The gateway's OpenAPI 3.1 document, served at /openapi.json.

paths, shapes -> document
"""

from logtune.records import Json


def document() -> dict[str, Json]:
    """The document."""
    return {"openapi": "3.1.0", "info": {"title": "logtune", "version": "1"}, "paths": {}}
