"""Every error a user can meet, and the exit codes of the command line.

    LogtuneError                 a known mistake: what happened, the value, the next step     exit 1
    ├── ConfigError              a setting is unknown, of the wrong type or impossible
    ├── InputError               a file or request that cannot be read as what it claims to be
    │   └── RequestError         a request that the gateway refuses, with the HTTP status of the answer
    ├── StoreError               the store cannot be opened, is newer than this code, or is full
    │   └── RecordRefused        the store works, and refuses a record for what is in it
    ├── ModelError               a model, embedder or adapter cannot be loaded or does not answer
    │   ├── NoAnswer             a call that may have been taken up timed out or broke off
    │   ├── CallRejected         a call was not taken up: nobody listens, the server is busy, or answers with an error
    │   ├── AnswerRefused        the model, or a filter behind it, will not answer
    │   └── InvalidReply         an answer that is not what was asked for, after its repair too
    ├── MissingExtra             an optional package is not installed
    ├── TrainingError            a run that learned nothing: loss, weights or output did not move
    ├── TooManyFailures          a stage failed on more items than the configured share
    ├── InUse                    another process does it already
    ├── BudgetSpent              the next call of a model would go beyond the budget
    └── NotPassed                a gate was not passed; nothing was deployed                  exit 3

Usage errors (exit 2) come from the command-line parser, an interrupt exits with 130.
"""

from collections.abc import Mapping

OK, KNOWN_ERROR, USAGE, NOT_PASSED, INTERRUPTED = 0, 1, 2, 3, 130


class LogtuneError(Exception):
    """A mistake we know: `what` happened (with the value), and the `hint` that mends it."""

    exit_code = KNOWN_ERROR

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what if not hint else f"{what}\n  {hint}")
        self.what = what
        self.hint = hint


class ConfigError(LogtuneError):
    """A setting is unknown, of the wrong type or impossible."""


class InputError(LogtuneError):
    """A file or request that cannot be read as what it claims to be."""


class RequestError(InputError):
    """A request that the gateway refuses, with status and headers of the answer; `param` is the field at fault."""

    def __init__(
        self, what: str, status: int = 400, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(what)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}


class StoreError(LogtuneError):
    """The store cannot be opened, is newer than this code, or is full."""


class RecordRefused(StoreError):
    """The store works, and refuses one of the records for what is in it."""


class ModelError(LogtuneError):
    """A model, embedder or adapter cannot be loaded or does not answer."""


class NoAnswer(ModelError):
    """A call that may have been taken up timed out or broke off."""


class CallRejected(ModelError):
    """A call was not taken up: nobody listens, the server is busy, or answers with an error."""


class AnswerRefused(ModelError):
    """The model, or a filter behind it, will not answer."""


class InvalidReply(ModelError):
    """An answer that is not what was asked for, after its repair too."""


class MissingExtra(LogtuneError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package '{package}' is not installed", f"pip install 'logtune[{extra}]'")


class TrainingError(LogtuneError):
    """A run that learned nothing: loss, weights or output did not move."""


class TooManyFailures(LogtuneError):
    """A stage failed on more items than the configured share."""


class InUse(LogtuneError):
    """Another process does it already."""


class BudgetSpent(LogtuneError):
    """The next call of a model would go beyond the budget."""


class NotPassed(LogtuneError):
    """A gate was not passed; nothing was deployed."""

    exit_code = NOT_PASSED
