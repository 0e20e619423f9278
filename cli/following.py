"""Follows a run in the terminal: draws the analysis again whenever new checkpoints were observed."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from regime_proto.analyzer.result import Result
from regime_proto.cli import render
from regime_proto.cli.console import Messages
from regime_proto.conversion.following import grown_plan, wait_for_two
from regime_proto.conversion.plan import Plan
from regime_proto.conversion.run import Done, Grown
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.schema.words import counted

Analyze = Callable[[Path], Result]


def wait(root: Path, settings: SourceSettings, messages: Messages, *, seconds: float) -> None:
    """Wait until there is a change to measure."""
    wait_for_two(
        root, settings, seconds=seconds, waiting=lambda missing: messages.note(f"waiting for checkpoints: {missing}")
    )


def grown(
    settings: ConversionSettings,
    messages: Messages,
    *,
    analyze: Analyze,
    as_json: bool,
    seconds: float,
) -> Grown:
    """Return the callback that `run_plan` calls after the last checkpoint: it shows the result and waits for more.

    The user ends it with Ctrl-C.
    """

    def show_and_wait(plan: Plan, done: Done) -> Plan | None:
        try:
            console = render.console()
            # Cleared before the analysis, so that its warnings stay on the screen.
            if console.color_system is not None and not as_json:
                console.clear()
            result = analyze(done.path)
            if as_json:
                sys.stdout.write(json.dumps(result.to_json(), allow_nan=False) + "\n")
                sys.stdout.flush()
            else:
                render.show(console, render.analysis(result, all_layers=messages.verbose))
            messages.note(
                f"{time.strftime('%H:%M:%S')}  {counted(done.observations, 'observation')} in {done.path}; "
                "waiting for more, Ctrl-C ends"
            )
            return grown_plan(plan, settings, seconds=seconds)
        except KeyboardInterrupt:
            messages.note("ended; the trajectory is complete up to here")
            return None

    return show_and_wait
