"""Where the time of a run went: how much of it was samples, and what measuring them cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nestctl.model.samples import Call, Results

DEAREST_PAUSES = 0.01  # of the time of samples: half of what all that measuring costs may be


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the time of a run, by its key in JSON and in words."""

    key: str
    text: str
    seconds: float


def measured_share(results: Results) -> float | None:
    """Say which part of the time of all visits was samples; the rest is what measuring costs besides."""
    visits_ns = sum(_around_ns(call) for call in results.calls if not call.failure)
    samples_ns = sum(_samples_ns(call) for call in results.calls)
    return samples_ns / visits_ns if visits_ns > 0 else None


def harness_share(results: Results) -> float | None:
    """Say what asking for measurements cost: the time of visits outside their workloads, as a part of that inside.

    Inside are the calibration and the preparation of workloads too: `list_parts` tells them from the samples.
    """
    visits = [(_around_ns(call), inside) for call in results.calls if (inside := _inside_ns(call)) is not None]
    inside_ns = sum(inside for _, inside in visits)
    return sum(around - inside for around, inside in visits) / inside_ns if inside_ns > 0 else None


def pause_share(call: Call) -> float:
    """Say what the pauses of a visit cost the level, as a part of its samples; by its own clock, however fast that is.

    In a pause L0 looks at its clock and has the level above count exits.
    """
    return call.paused_ns / max(_samples_ns(call), 1)


def list_parts(results: Results) -> tuple[Part, ...]:
    """Divide the whole time of a run, from the command to the last sample; nothing where the run did not record it."""
    return tuple(_parts(results))


def _parts(results: Results) -> Iterator[Part]:
    spent = results.spent
    if spent is None:
        return
    answered = [call for call in results.calls if not call.failure]
    # A clock that is wrong, or a program that says more than it took, makes no part negative.
    asking_ns = sum(max(_around_ns(call) - inside, 0) for call in answered if (inside := _inside_ns(call)) is not None)
    samples_ns = sum(min(_samples_ns(call), max(_around_ns(call), 0)) for call in answered)
    visits_ns = sum(_around_ns(call) for call in answered)
    parts_ns = [
        ("samples_s", "samples", samples_ns),
        ("preparing_s", "calibrating, warming up and preparing", max(visits_ns - asking_ns - samples_ns, 0)),
        ("asking_s", "asking the levels and carrying their answers", asking_ns),
        ("failed_s", "visits that failed", sum(_around_ns(call) for call in results.calls if call.failure)),
        ("agents_s", "starting an agent on every level", sum(level.setup_ns or 0 for level in results.levels)),
        ("opening_s", "reaching, checking and pinning the levels", spent.opening_ns),
        ("boots_s", "booting the guests anew", spent.boots_ns),
    ]
    rest_ns = max(spent.whole_ns - sum(ns for _, _, ns in parts_ns), 0)
    for key, text, ns in (*parts_ns, ("rest_s", "the rest", rest_ns)):
        yield Part(key=key, text=text, seconds=ns / 1e9)


def _around_ns(call: Call) -> int:
    return call.host_end_ns - call.host_begin_ns


def _inside_ns(call: Call) -> int | None:
    """Return the time of a visit by the level's own clock, without its pauses; a program has none."""
    if call.level_begin_ns is None or call.level_end_ns is None:
        return None
    return call.level_end_ns - call.level_begin_ns - call.paused_ns


def _samples_ns(call: Call) -> int:
    return sum(sample.elapsed_ns for outcome in call.outcomes for sample in outcome.samples)
