"""`logtune simulate`: how a live test would go, played many times before it is begun."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from logtune.app.console import Console, common, counted, table
from logtune.errors import InputError

if TYPE_CHECKING:
    from logtune.config_experiment import ExperimentSettings
    from logtune.edges.store import Store
    from logtune.simulation import Played, World

FEWEST_LOGGED = 30  # users of the logs from whom others are drawn


@click.command("simulate")
@click.option(
    "--effect", type=float, multiple=True, metavar="POINTS", help="Of the mean; each is played.  [default: 0, 5, -10]"
)
@click.option(
    "--world", "worlds", multiple=True, metavar="KEY=VALUE",
    help="What users are like: kind (binary, rate, real), mean, noise, drift; traffic (new users a day; else 150); "
    "every (look after so many users); seed.",
)  # fmt: skip
@click.option("--from-logs", is_flag=True, help="Draw users' outcomes from the store, by experiment.metric.")
@click.option("--runs", type=click.IntRange(1), default=2000, show_default=True, help="Tests that are played.")
@common
def simulate(say: Console, effect: tuple[float, ...], worlds: tuple[str, ...], from_logs: bool, runs: int) -> None:
    """Play the live test that the settings describe: how often it errs, how long it takes, whom it exposes.

    The draw, the ramp, the statistics and the decision are those of the real test; an outcome is known
    experiment.window_hours after its user came, and until then others come. Nobody comes back.

    \b
    Examples:
      logtune simulate --effect 0 --effect 3 --world mean=0.8 --world traffic=150
      logtune simulate --world kind=rate --world noise=0.3 --world every=100
      logtune simulate --from-logs --set experiment.confidence=0.9
    """
    from logtune.simulation import fixed_horizon, play

    config, chosen = say.config(), _Chosen.of(worlds)
    given = dict(chosen.world)
    if from_logs:
        with say.store() as (store, _):
            given |= {"kind": "logged", "logged": logged(store, config.experiment)}
    played = []
    for points in effect or (0.0, 5.0, -10.0):
        found = play(_world(given, points / 100), config.experiment, runs=runs, seed=chosen.seed, every=chosen.every)
        played.append((found, fixed_horizon(found.world) if points else None))
        say.progress(f"{points:+g} points: played {runs:,} tests")
    documents = [{"played": found, "fixed_horizon_users": fixed} for found, fixed in played]
    settings = config.experiment.model_dump(mode="json")
    say.answer({"tests": documents, "settings": settings}, told(played, config.experiment))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What `--world` says."""

    world: Mapping[str, object]
    every: int
    seed: int

    @classmethod
    def of(cls, texts: tuple[str, ...]) -> "_Chosen":
        """Read it; InputError for what is unknown or out of range."""
        found: dict[str, object] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in WORLD or not WORLD[name].fits(value):
                allowed = ", ".join(f"{key} ({rule.about})" for key, rule in WORLD.items())
                raise InputError(f"--world {text} is not allowed", f"there are: {allowed}")
            found[{"noise": "spread"}.get(name, name)] = WORLD[name].read(value)
        rest = {name: found.pop(name, None) for name in ("every", "seed")}
        return cls(world=found, every=cast("int", rest["every"] or 1), seed=cast("int", rest["seed"] or 0))


class _Rule(NamedTuple):
    """What a key of `--world` may be."""

    read: Callable[[str], object]
    right: Callable[[Any], bool]
    about: str

    def fits(self, text: str) -> bool:
        """Whether a text is such a value."""
        try:
            return self.right(self.read(text))
        except ValueError:
            return False


WORLD: Mapping[str, _Rule] = {
    "kind": _Rule(str, lambda value: value in ("binary", "rate", "real"), "binary, rate or real"),
    "mean": _Rule(float, lambda value: 0 < value < 1, "0..1"),
    "noise": _Rule(float, lambda value: 0 < value <= 0.5, "standard deviation, 0..0.5"),
    "drift": _Rule(float, lambda value: 0 <= value <= 0.5, "0..0.5"),
    "traffic": _Rule(float, lambda value: value > 0, "new users a day"),
    "every": _Rule(int, lambda value: value >= 1, "users between two looks"),
    "seed": _Rule(int, lambda value: value >= 0, "a whole number"),
}


def _world(given: Mapping[str, object], effect: float) -> "World":
    from logtune.simulation import World

    return World(effect=effect, **given)  # type: ignore[arg-type]


def logged(store: "Store", settings: "ExperimentSettings") -> tuple[float, ...]:
    """Outcomes of the store's users, each for the window from its first request on; InputError for too few."""
    from logtune.stages.outcomes import history

    found = history(list(store.logs()), list(store.feedback()), settings.metric, 3600 * settings.window_hours)
    if len(found) < FEWEST_LOGGED:
        raise InputError(
            f"the logs tell the outcome ({settings.metric}) of {counted(len(found), 'user')} of {FEWEST_LOGGED} needed",
            "leave --from-logs away, or choose another experiment.metric",
        )
    return tuple(found)


def told(played: "list[tuple[Played, int | None]]", settings: "ExperimentSettings") -> Iterator[str]:
    """A row an effect, and what it means."""
    head = [
        "effect",
        "promoted",
        "rolled back",
        "open",
        "users, median",
        "80%",
        "exposed, median",
        "fixed test",
        "days",
    ]
    yield from table(head, [_row(found, fixed) for found, fixed in played])
    traffic, waiting = played[0][0].world.traffic, played[0][0].waiting
    yield (
        f"At most {settings.max_users:,} users, counted as of even arms, and {settings.max_days:g} days; open: nothing "
        f"was decided by then. Users: drawn until the decision, quantiles of all tests, with the {waiting:,} of the "
        f"last {settings.window_hours:g} hours, whose outcomes are not known then. Days: median, at {traffic:g} new "
        "users a day. Fixed test: users of a z-test with a power of 80% that is looked at once."
    )
    for found, _ in played:
        if not found.world.effect:
            wrong = 100 * (found.promoted + found.rolled_back)
            naive = f"a z-test looked at as often: {100 * found.peeked:.0f}%"
            yield f"Without any effect {wrong:.1f}% decide by mistake; {naive}."


def _row(found: "Played", fixed: int | None) -> list[str]:
    median = found.users["q50"]
    shares = (f"{100 * share:.1f}%" for share in (found.promoted, found.rolled_back, found.undecided))
    return [
        f"{100 * found.world.effect:+g} points", *shares,
        _number(median), _number(found.users["q80"]), _number(found.exposed["q50"]), _number(fixed),
        _number(median / found.world.traffic if median else None),
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


COMMANDS = {"simulate": simulate}
