"""From the scores of splits and subsets to one score a task, on the parts that all layers of a run have."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd

from mteb_ext.long_table import KEY, describe, listed

RUN = ["model", "revision", "settings", "task"]
"""What is compared with each other: the layers and aggregates of one run on one task."""

PART = ["split", "subset"]


def one_score_a_task(frame: Any) -> pd.DataFrame:
    """Average the scores of the parts, a part being a subset of a split, to one row a `KEY`.

    s = mean over parts p of s_p, as MTEB's `TaskResult.get_score`, over the parts that every layer of the run has: of
    the split `test` if there are such, else of all splits. NaN if one of them is. `split` and `subset` then name the
    parts, joined by '+'. Aggregates must have these parts too. Parts that some layer lacks, further splits, repeats of
    a score, and a task of whose parts none is common to all layers are left out, each with a warning.

    Raises:
        ValueError: one thing has two unequal scores.
    """
    frame = _once(frame).reset_index(drop=True)
    run = frame.groupby(RUN, dropna=False).ngroup()
    arm = frame.groupby(KEY, dropna=False).ngroup()
    layered = frame["layer"].notna()
    counted = layered | ~layered.groupby(run).transform("any")
    arms = arm.where(counted).groupby(run).transform("nunique")
    holders = counted.groupby([run, frame["split"], frame["subset"]]).transform("sum")
    common = holders == arms
    test = frame["split"] == "test"
    tested = (common & test).groupby(run).transform("any")
    kept = common & (test | ~tested)
    _warn_splits(frame, run, kept, tested)
    for number in run[counted & ~common & (test | ~tested)].unique():
        of = (run == number) & counted
        _warn_parts(frame[of], kept[of], holders[of], int(arms[of].iloc[0]))
    part = frame.groupby(PART).ngroup()
    most = part.where(kept).groupby(run).transform("nunique")
    lacking = kept & (kept.groupby(arm).transform("sum") < most)
    for _, row in frame[lacking].drop_duplicates(KEY).iterrows():
        warnings.warn(f"{describe(row)} lacks parts that the layers have and is left out", stacklevel=3)
    kept &= ~lacking
    return _mean(frame[kept], run[kept], arm[kept])


def _mean(frame: Any, run: pd.Series, arm: pd.Series) -> pd.DataFrame:
    score = frame["main_score"]
    undefined = score.isna().groupby(arm).transform("any")
    joined = {name: frame[name].groupby(run).transform(lambda s: "+".join(sorted(set(s)))) for name in PART}
    mean = score.groupby(arm).transform("mean").mask(undefined)
    return frame.assign(main_score=mean, **joined)[~arm.duplicated()]


def _once(frame: Any) -> pd.DataFrame:
    key = [*KEY, *PART]
    twice = frame[frame.duplicated(key, keep=False)]
    of = twice.groupby(key, dropna=False)["main_score"]
    unequal = (of.transform("max") > of.transform("min")) | (of.transform("count") % of.transform("size") != 0)
    if unequal.any():
        same = twice[unequal].sort_values(key)
        one, two = same.iloc[0], same.iloc[1]
        files = f" ({one['file']} and {two['file']})" if one["file"] else ""
        scores = f"{one['main_score']:g} and {two['main_score']:g}"
        raise ValueError(f"{describe(one)} has unequal scores, {scores}{files}; keep one, or name the variants apart")
    if len(twice):
        repeats = len(twice.drop_duplicates(KEY))
        warnings.warn(f"{repeats} scores stand there more than once, equal, and count once", stacklevel=4)
    return frame[~frame.duplicated(key)]


def _warn_splits(frame: Any, run: pd.Series, kept: pd.Series, tested: pd.Series) -> None:
    splits = frame["split"]
    over = frame.loc[tested & (splits != "test"), "task"].unique()
    if len(over):
        warnings.warn(f"several splits of {listed(over)}: test is used", stacklevel=4)
    several = kept & (splits.where(kept).groupby(run).transform("nunique") > 1)
    for task, names in splits[several].groupby(frame["task"][several]):
        used = ", ".join(sorted(set(names)))
        warnings.warn(f"{task} has no split test: the mean over its splits {used} is used", stacklevel=4)


def _warn_parts(rows: Any, kept: Any, holders: Any, arms: int) -> None:
    """Say of one run which parts some of its results lack, and show one result that is unlike the others."""
    name = rows["split"] + " " + rows["subset"] if rows["split"].nunique() > 1 else rows["subset"]
    odd = ~kept & (holders < arms)
    arm = rows.groupby(KEY, dropna=False).ngroup()
    found = []
    for part, count in holders[odd].groupby(name[odd]).first().items():
        few = 2 * count <= arms
        example = rows[arm.isin(arm[name == part]) == few].iloc[0]
        found.append(f"{part} in {count} of {arms} ({'' if few else 'not '}{example['file'] or describe(example)})")
    run = rows.iloc[0].copy()
    run[["layer", "variant"]] = pd.NA, ""
    if kept.any():
        used = (
            f"compared on {listed(sorted(set(name[kept])))}, which all {arms} results hold; left out: {listed(found)}"
        )
    else:
        used = f"left out, for its {arms} results have no subset in common: {listed(found)}; evaluate it again"
    warnings.warn(f"{describe(run)}: {used}", stacklevel=4)
