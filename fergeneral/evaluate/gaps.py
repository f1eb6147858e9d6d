"""Shares and means of groups with their intervals, and whether the largest difference between groups is chance.

Each value belongs to a person. Where people have several values, these are not independent: intervals are then over
people, and a test compares the people's means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from fergeneral.evaluate.metrics import DRAWS, percentile_interval, score
from fergeneral.evaluate.people import NOT_STATED, Column

LEAST_PEOPLE = 10  # of a group, for the test; smaller ones are shown
TABLES = 9999  # drawn for a p value of a table of more than two groups


def wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the share count / n, n > 0 (Wilson, JASA 1927)."""
    interval = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share(values: np.ndarray, people: np.ndarray, *, seed: int = 0) -> tuple[float, tuple[float, float]] | None:
    """The share of true ones among values (N,) bool, and its 95 % interval; None for no values.

    Wilson's where each person has one value; else a bootstrap over people. That has no width where all values are the
    same, so it is Wilson's there, too, for the number of people.
    """
    if not len(values):
        return None
    count, different = int(values.sum()), len(np.unique(people))
    if different == len(values) or count in (0, len(values)):
        return count / len(values), wilson(different * count // len(values), different)
    said = np.where(values, "yes", "no")
    drawn = score(["yes"] * len(said), said, ("yes", "no"), groups=people.tolist(), seed=seed)
    return count / len(values), drawn.intervals["accuracy"]


def mean_interval(values: np.ndarray, people: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (N,), N > 0, over people."""
    _, who = np.unique(people, return_inverse=True)
    sums, counts = np.bincount(who, weights=values), np.bincount(who)
    generator = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for i in range(DRAWS):
        drawn = generator.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    return percentile_interval(means)


def largest_gap(values: np.ndarray, column: Column, people: np.ndarray, *, seed: int = 0) -> dict[str, Any] | None:
    """The largest difference between two groups' means, and the p value of the hypothesis that all groups are alike.

    Parameters
    ----------
    values : ndarray, shape (N,)
        Bool, whose means are shares, or float.
    column : Column
        The group of each value.
    people : ndarray, shape (N,)
        The person of each value.
    seed : int, default 0
        Of drawn tables.

    Returns
    -------
    dict or None
        `low_group`, `low`, `high_group`, `high`, `difference`, `test`, `p`, and `groups`, those compared: all with
        values of LEAST_PEOPLE people or more, but for "not stated". None where fewer than two are left.

    Notes
    -----
    The test is of all groups at once, not of the two that were found farthest apart, which would find too much. Of
    shares, where each person has one value: Fisher's exact test for two groups; for more, Pearson's chi-square of the
    table, whose p value is the share of 9,999 random tables with the same margins that reach it (Hope, JRSS B 1968),
    since expected counts may be small. Otherwise the Kruskal-Wallis test of the people's means.
    """
    rows = {name: column.of == name for name in column.names if name != NOT_STATED}
    rows = {name: chosen for name, chosen in rows.items() if len(np.unique(people[chosen])) >= LEAST_PEOPLE}
    if len(rows) < 2:
        return None
    means = {name: float(values[chosen].mean()) for name, chosen in rows.items()}
    low, high = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    test, p = _test([values[chosen] for chosen in rows.values()], [people[chosen] for chosen in rows.values()], seed)
    gap = {"low_group": low, "low": means[low], "high_group": high, "high": means[high]}
    return gap | {"difference": means[high] - means[low], "test": test, "p": p, "groups": list(rows)}


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number, so that one or more is wrong by chance in at most the level stated.

    Holm, Scandinavian Journal of Statistics 1979: the smallest is multiplied by m, the next by m - 1 and so on; none
    is less than one before it, or more than 1.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in corrected]


def _test(groups: Sequence[np.ndarray], people: Sequence[np.ndarray], seed: int) -> tuple[str, float]:
    single = all(len(np.unique(who)) == len(who) for who in people)
    if not single or groups[0].dtype != bool:
        means = [_means(values, who) for values, who in zip(groups, people, strict=True)]
        if len(np.unique(np.concatenate(means))) == 1:
            return "Kruskal-Wallis", 1.0
        return "Kruskal-Wallis", float(stats.kruskal(*means).pvalue)
    table = np.array([[int(values.sum()), int((~values).sum())] for values in groups])
    if len(table) == 2:
        return "Fisher", float(stats.fisher_exact(table).pvalue)
    return "chi-square", _chi_square(table, seed)


def _means(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    _, who = np.unique(people, return_inverse=True)
    return np.bincount(who, weights=values.astype(float)) / np.bincount(who)


def _chi_square(table: np.ndarray, seed: int) -> float:
    """p value of a table (G, 2) by random tables with its margins."""
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    if not columns.all():
        return 1.0
    expected = np.outer(rows, columns) / table.sum()
    drawn = stats.random_table(rows, columns).rvs(TABLES, random_state=np.random.default_rng(seed))
    reached = ((table - expected) ** 2 / expected).sum()
    others = ((drawn - expected) ** 2 / expected).sum(axis=(1, 2))
    return float((1 + (others >= reached * (1 - 1e-9)).sum()) / (1 + TABLES))
