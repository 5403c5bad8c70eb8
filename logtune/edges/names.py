"""Names of people in a text, by Presidio with a spaCy pipeline (extra `presidio`).

text -> (start, end) of each name

Presidio would fetch a missing pipeline from the network by itself; here it must be installed.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from logtune.errors import ConfigError

Names = Callable[[str], list[tuple[int, int]]]
PIECE, OVERLAP = 50_000, 200  # characters read at once: spaCy refuses a million; a name is shorter than the overlap


@cache
def recogniser(model: str) -> Names:
    """A function that finds names; ConfigError with the next step where Presidio or the pipeline is missing.

    `model`: name of an installed spaCy pipeline, or a folder of one.
    """
    try:
        import spacy.util
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        what = "redact.names is 'presidio' and Presidio is not installed"
        raise ConfigError(what, "pip install 'logtune[presidio]', or set redact.names = \"off\"") from error
    if not (spacy.util.is_package(model) or (Path(model) / "config.cfg").is_file()):
        what = f"redact.names_model is '{model}', and there is no such spaCy pipeline here"
        raise ConfigError(what, f"python -m spacy download {model}, or name an installed one or a folder")
    language = spacy.util.get_model_meta(model)["lang"] if Path(model).is_dir() else model.partition("_")[0]
    settings = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    engine = NlpEngineProvider(nlp_configuration=settings).create_engine()
    analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=[language])

    def names(text: str) -> list[tuple[int, int]]:
        return [
            (start + found.start, start + found.end)
            for start, piece in pieces(text)
            for found in analyzer.analyze(text=piece, language=language, entities=["PERSON"])
        ]

    return names


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text in overlapping pieces, each with its start; one of letters gives one piece."""
    if not any(map(str.isalpha, text)):
        return
    for start in range(0, max(1, len(text) - OVERLAP), PIECE - OVERLAP):
        yield start, text[start : start + PIECE]
