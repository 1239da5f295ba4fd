"""What the experiments share that fit a model to targets from a file."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import PRNGKeyArray
from tqdm import tqdm

import reverlet as rv
from reverlet import reweighting

from ._folder import Folder, History


def fitted(
    model: Any,
    points: Sequence[rv.StatePoint],
    sampler: Callable[[rv.AbstractEnsemble], rv.AbstractSampler] | Sequence[rv.AbstractSampler],
    starts: Sequence[rv.State],
    folder: Folder,
    *,
    updates: int,
    samples: int,
    equilibration: int,
    least: float,
    parameters: Sequence[str],
    key: PRNGKeyArray,
) -> reweighting.TargetFit:
    """The `parameters` of a model with these names, all positive, by Gauss–Newton, with a checkpoint and a line of the
    history for every update; otherwise as `reweighting.fit_targets`."""
    file = History(folder / "history.jsonl")
    bar = tqdm(total=updates, desc="update", unit="")

    def note(state: rv.FitState) -> None:
        file.tick(state.step)
        file.write(_lines(state.history))
        bar.update(state.step - bar.n)

    with bar:
        found = reweighting.fit_targets(
            model,
            points,
            sampler,
            starts,
            num_updates=updates,
            num_samples=samples,
            equilibration=equilibration,
            least=least,
            positive=parameters,
            trainable=parameters,
            callback=note,
            checkpoint=folder.checkpoint,
            resume="auto",
            key=key,
        )
    file.write(_lines(found.state.history))
    return found


def _lines(history: reweighting.TargetUpdate) -> list[dict[str, Any]]:
    return [
        {
            "update": k + 1,
            "loss": float(history.loss[k]),
            "effective_samples": history.effective_samples[k].tolist(),
            "drawn": history.drawn[k].tolist(),
            "step_over_noise": float(history.step_over_noise[k]),
        }
        for k in range(len(history.loss))
    ]


def predicted(fit: reweighting.TargetFit) -> list[dict[str, Any]]:
    """What a fit says of every target, in its unit."""
    numbers = ("target", "uncertainty", "value", "error", "predicted_error")
    in_unit = lambda p: {name: float(getattr(p, name)) / p.scale for name in numbers}
    return [{"name": p.name, "unit": p.unit, **in_unit(p)} for p in fit.predictions]
