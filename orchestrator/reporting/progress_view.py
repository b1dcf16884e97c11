"""What a person sees while a run runs: both groups side by side on a terminal, plain lines without
one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from actors.corpus.inventory import Inventory
from actors.formats import ABSENT, clock
from actors.settings.run import GROUPS, peer_of
from actors.wire import RankDescription
from orchestrator.console import Console, plain
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize
from orchestrator.reporting.live_view import LiveView
from orchestrator.run_dir.metrics import SHOWN_LOSSES, Row
from orchestrator.settings.config import Config

LINE_EVERY_S = 10.0
QUIET_S = 30.0  # without a line, after which the run says that it is still there


class ProgressView(LiveView):
    """Shows a run's progress.

    Args:
        config: the run.
        console: where to show it; its `is_terminal` decides between a live view and lines.
    """

    def __init__(self, config: Config, console: Console) -> None:
        super().__init__(console, refreshes=4, beats_every_s=LINE_EVERY_S)
        self._config = config
        self._rows: dict[str, Row] = {}
        self._waited_s: dict[str, float] = dict.fromkeys(GROUPS, 0.0)
        self._evaluation: Row | None = None
        self._phase = "starting"
        self._began = self._printed_at = time.monotonic()
        self._first_interval_at: float | None = None
        self._next_line = 0.0
        self._steps: Mapping[str, int] = {}
        self._is_training = False
        self._shares: list[tuple[float, float]] = []  # when which share of all steps was reached

    def phase(self, text: str) -> None:
        """What the run is doing now."""
        self._phase = text
        if not self._is_live:
            self._say(text)

    def says(self, text: str) -> None:
        """Something to know that is not what the run does now."""
        self._say(text)

    def waiting(self, text: str) -> None:
        """What the run waits for before it can start; repeated only where that changed."""
        if text != self._phase:
            self.phase(text)

    def corpus(self, inventory: Inventory) -> None:
        """What the run will read."""
        for line in inventory.lines():
            self._print(line)
        for message in inventory.warnings():
            self.warning(message)

    def resuming(self, interval: int) -> None:
        """An earlier run is resumed."""
        where = (
            f"after interval {interval}" if interval else "from its beginning: no checkpoint yet"
        )
        self._print(f"resuming {where}")

    def started(self, descriptions: Mapping[str, Sequence[RankDescription]]) -> None:
        """Both groups are ready."""
        parts = []
        for group in GROUPS:
            first, num = descriptions[group][0], len(descriptions[group])
            where = "CPU" if first.device == "cpu" else first.device
            parts.append(
                f"{group} {first.num_parameters / 1e6:.1f} M parameters on {num} worker(s), {where}"
            )
        self.phase("; ".join(parts))
        ranks = [rank for group in GROUPS for rank in descriptions[group]]
        for warning in dict.fromkeys(w for rank in ranks for w in rank.warnings):
            self.warning(warning)
        self._phase = "training"
        self._is_training = True

    def steps(self, steps: Mapping[str, int]) -> None:
        """How far each group is, until the first interval is there to show; called on another
        thread.
        """
        if not self._is_training or self._rows:
            return
        self._steps, now = dict(steps), time.monotonic()
        totals = {group: self._config.total_steps(group) for group in GROUPS}
        share = sum(steps.get(group, 0) / totals[group] for group in GROUPS) / len(GROUPS)
        if share > (self._shares[-1][1] if self._shares else 0):
            self._shares = [*self._shares[:1], (now, share)]  # the first and the last

    def _first_steps(self) -> str:
        totals = {group: self._config.total_steps(group) for group in GROUPS}
        steps = self._steps
        text = "  ".join(f"{g}: step {steps.get(g, 0)}/{total}" for g, total in totals.items())
        if len(self._shares) == 2:  # the first step is slower than the others
            (first_at, first), (last_at, last) = self._shares
            left_s = (1 - last) * (last_at - first_at) / (last - first)
            text += f"  left about {clock(round(left_s))}"
        return f"{text}  (in the first interval)"

    def interval(self, row: Row) -> None:
        """A group finished an interval."""
        group = row["group"]
        self._rows[group] = row
        self._waited_s[group] += row["wait_s"]
        if self._first_interval_at is None:
            self._first_interval_at = time.monotonic() - (row["end_s"] - row["start_s"])
        if row["interval"] > self._config.intervals:
            self._phase = (
                f"memory catches up with the final data layer (agreement {row['agreement']:.3f})"
            )
        if not self._is_live and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._print(self._line())

    def evaluation(self, row: Row) -> None:
        """An evaluation came back."""
        self._evaluation = row
        if not self._is_live:
            self._say(self._heldout())

    def failure(self, failure: Failure) -> None:
        """A group failed and is restarted."""
        other = peer_of(failure.group)
        self.warning(
            f"{failure.cause.rstrip('.')}; the {failure.group} group is restarted (its failure "
            f"{failure.incarnation + 1}) and replays {failure.replayed} interval(s); the {other} "
            "group goes on as far as it can"
        )

    def recovery(self, row: Row) -> None:
        """A group has caught up after a restart."""
        self._say(
            f"the {row['group']} group has recovered: {row['restart_s']:.1f} s to restart, "
            f"{row['replay_s']:.1f} s to replay"
        )

    def resize(self, resize: Resize) -> None:
        """A group has another number of workers."""
        self._say(str(resize))

    def draining(self, interval: int) -> None:
        """The run stops after a last checkpoint."""
        self._phase = f"stopping after a checkpoint of interval {interval}"
        self._say(f"{self._phase}; Ctrl-C once more ends the run at once")

    def _print(self, text: str, style: str | None = None) -> None:
        self._printed_at = time.monotonic()
        super()._print(text, style)

    def _beat(self) -> None:
        """Between two intervals of a large model nothing else is said for minutes."""
        if time.monotonic() - self._printed_at < QUIET_S:
            return
        if self._rows:
            self._print(self._line())
        elif self._steps:
            self._say(self._first_steps())
        else:
            self._say(f"{self._phase}, no interval is done yet")

    def _say(self, text: str) -> None:
        self._print(f"[{self._elapsed():6.1f} s] {text}")

    def warning(self, message: str) -> None:
        """Something that the run survives."""
        self._print(f"warning: {message}", "yellow")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _left_s(self) -> float | None:
        done = [row["interval"] for row in list(self._rows.values())]  # drawn on another thread
        if len(done) < len(GROUPS) or self._first_interval_at is None:
            return None
        # the mean: where the groups take turns, one of them is an interval ahead half of the time
        num_done = max(1.0, sum(done) / len(done))
        per_interval = (time.monotonic() - self._first_interval_at) / num_done
        return max(0.0, (self._config.intervals + 1 - num_done) * per_interval)

    def _cells(self, group: str) -> dict[str, str]:
        total = self._config.total_steps(group)
        row = self._rows.get(group)
        if row is None:
            return {"step": f"{self._steps.get(group, 0)}/{total}"}
        losses = "  ".join(
            f"{name} {row[key]:.3f}"
            for name in SHOWN_LOSSES[group]
            if (key := f"train.{name}") in row
        )
        wall = max(1e-9, row["end_s"] - (self._first_start(group)))
        return {
            "step": f"{row['step']}/{max(total, row['step'])}",
            "tokens/s": f"{row['tokens_per_s']:,.0f}",
            "losses": losses,
            "version": f"{row['interval']}, adopted {row['peer_version']}",
            "lag": str(row["lag"]),
            "waiting": f"{min(1.0, self._waited_s[group] / wall):.0%}",
        }

    def _first_start(self, group: str) -> float:
        return (
            float(self._rows[group]["first_step_s"]) if self._rows[group]["interval"] == 1 else 0.0
        )

    def _heldout(self) -> str:
        row = self._evaluation
        if row is None:
            return ""
        version = row["data_version"]
        text = (
            f"held out {f'at v{version}' if version else 'before training'}: own "
            f"{row['heldout.own_loss']:.3f}  help "
            f"{row['heldout.help_loss']:.3f}  "
            f"gain {row['heldout.help_gain']:+.3f}  recall agreement "
            f"{row['heldout.recall_agreement']:.3f}"
        )
        if "heldout.general_own_loss" in row:
            text += (
                f"  general text: own {row['heldout.general_own_loss']:.3f}  help "
                f"{row['heldout.general_help_loss']:.3f}"
            )
        if "accuracy.own" in row:
            text += "  answers " + " ".join(
                f"{v} {row[f'accuracy.{v}']:.2f}" for v in ("own", "help", "memory")
            )
        return text

    def _line(self) -> str:
        left = self._left_s()
        parts = [f"[{self._elapsed():6.1f} s]"]
        for group in GROUPS:
            cells = self._cells(group)
            parts.append(
                f"{group}: step {cells.pop('step')}"
                + "".join(f", {k} {v}" for k, v in cells.items())
            )
        return "  ".join(parts) + (f"  left {clock(left)}" if left is not None else "")

    def _render(self) -> Group:
        title = plain(f"tandem · {self._config.name}", "table.title")
        table = Table(title=title, title_justify="left", expand=False)
        table.add_column("")
        for group in GROUPS:
            table.add_column(f"{group} group", min_width=34)
        cells = {group: self._cells(group) for group in GROUPS}
        spans = {group: self._config.total_steps(group) for group in GROUPS}
        done = {
            group: min(self._rows[group]["step"], spans[group]) if group in self._rows else 0
            for group in GROUPS
        }
        table.add_row(
            "", *(ProgressBar(total=spans[g], completed=done[g], width=32) for g in GROUPS)
        )
        for name in ("step", "tokens/s", "losses", "version", "lag", "waiting"):
            table.add_row(name, *(cells[group].get(name, ABSENT) for group in GROUPS))
        left = self._left_s()
        foot = f"{self._phase} · {clock(self._elapsed())} gone" + (
            f" · {clock(left)} left" if left is not None else ""
        )
        return Group(table, plain(foot), self._heldout())
