"""`report.html`.

One self-contained page about a run, for a person. Text and tables here, plots in `plots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from actors.measuring.answers import is_answered
from actors.settings.run import DATA, GROUPS, MEMORY
from orchestrator.reporting.plots import TOP_SHARE_ALARM, all_plots
from orchestrator.run_dir.metrics import Metrics
from orchestrator.settings.config import Config

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#0f172a;background:#f8fafc;margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0}h2{font-size:18px;margin:32px 0 12px}
.sub{color:#475569;margin:4px 0 20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px}
.card{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:12px 14px}
.card b{display:block;font-size:22px}.card span{color:#475569;font-size:13px}
.bad{border-color:#dc2626;background:#fef2f2}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:12px}
.plots div{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:8px}
.plots svg{width:100%;height:auto}
table{border-collapse:collapse;background:#fff;width:100%}
td,th{border:1px solid #e2e8f0;padding:6px 10px;text-align:left;vertical-align:top}
th{background:#f1f5f9;font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums}
.right{color:#047857;font-weight:600}
pre{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:12px;overflow:auto}
"""


def page(heading: str, sub: str, body: Iterable[str], title: str = "") -> str:
    """A self-contained page.

    Args:
        heading, sub: text that stands first.
        body: HTML below it.
        title: of the browser's window; by default the heading.
    """
    return "".join(
        [
            f"<!doctype html><html lang=en><head><meta charset=utf-8><title>"
            f"{escape(title or heading)}</title>",
            f"<meta name=viewport content='width=device-width'><style>{STYLE}</style></head>",
            f"<body><main><h1>{escape(heading)}</h1><p class=sub>{escape(sub)}</p>",
            *body,
            "</main></body></html>",
        ]
    )


def render_report(config: Config, summary: dict[str, Any], metrics: Metrics) -> str:
    """The page as HTML; needs nothing but a browser."""
    answers = metrics.evaluations[-1]["answers"] if metrics.evaluations else []
    parts = [
        f"<div class=cards>{''.join(_cards(summary))}</div>",
        *_alarms(summary),
        "<h2>Over time</h2><div class=plots>",
        *(f"<div>{svg}</div>" for svg in all_plots(metrics)),
        "</div>",
        "<h2>Held-out figures</h2>",
        table(_figure_heads(summary), _figure_rows(summary)),
        "<h2>The two groups</h2>",
        table(("", DATA, MEMORY), _group_rows(summary)),
    ]
    if restarts := summary["restarts"]:
        parts += ["<h2>What failed and came back</h2>", table(RESTARTS, _restart_rows(restarts))]
    if resizes := summary["resizes"]:
        parts += ["<h2>What was resized</h2>", table(RESIZES, _resize_rows(resizes))]
    if answers:
        parts += ["<h2>A few questions</h2>", _answers(answers)]
    parts += [f"<h2>Config</h2><pre>{escape(config.to_yaml())}</pre>"]
    return page(config.name, _subtitle(summary), parts, f"Tandem: {config.name}")


def _subtitle(summary: dict[str, Any]) -> str:
    return (
        f"{summary['status'].replace('_', ' ')} in {summary['wall_s']:.0f} s, seed "
        f"{summary['seed']}; "
        f"{summary['reflects_final_reason']}"
    )


def _cards(summary: dict[str, Any]) -> Iterable[str]:
    heldout = summary["heldout"]
    accuracy = summary.get("accuracy", {})
    for name in ("own", "help", "memory"):
        if name in accuracy:
            yield card(
                f"{accuracy[name]:.1%}",
                f"answers right: {name} (baseline {accuracy['baseline']:.1%})",
            )
    gain, agreement = heldout["help_gain"], heldout["recall_agreement"]
    yield card("–" if gain is None else f"{gain:+.3f}", "help gain, nats per token")
    yield card("–" if agreement is None else f"{agreement:.1%}", "memory agrees with data layer")
    rate = heldout["reflection_rate"]
    yield card(
        "–" if rate is None else f"{rate:.1%}",
        f"reflection ({heldout['reflection_probes']} changed)",
    )
    level = summary["final_agreement"]
    yield card(
        summary["reflects_final_verdict"],
        "memory reflects the final version"
        + ("" if level is None else f" (agreement {level:.1%})"),
        bad=not summary["reflects_final"],
    )


def card(value: str, label: str, bad: bool = False) -> str:
    """A figure and what it says, in a box."""
    style = "card bad" if bad else "card"
    return f"<div class='{style}'><b>{escape(value)}</b><span>{escape(label)}</span></div>"


def _alarms(summary: dict[str, Any]) -> Iterable[str]:
    share = summary["heldout"]["slots_top1pct_share"]
    if share is not None and share > TOP_SHARE_ALARM:
        yield (
            f"<p class='card bad'>The most read 1 % of the slots take {share:.0%} of the reads "
            "(alarm above "
            f"{TOP_SHARE_ALARM:.0%}): raise losses.balance, or there are more slots than the "
            "corpus needs.</p>"
        )


MEANING = {
    "own_loss": "data layer alone, nats per token; lower is better",
    "help_loss": "data layer with memory",
    "help_gain": "own_loss − help_loss on the same tokens",
    "recall_kl": "KL from data layer to memory; 0 would be perfect recall",
    "recall_agreement": (
        "share of tokens on which memory and data layer hold the same one likeliest"
    ),
    "self_loss": "memory alone",
    "sync_loss": "follow what changed since the evaluation before, keep the rest",
    "mixing": "mean λ: how much of the mixture is the memory's",
    "slots_used_frac": "share of slots that the held-out text reads",
    "slots_top1pct_share": "share of the reads that go to the most read 1 % of the slots",
    "reflection_rate": (
        "of the probes whose answer changed, the share that the memory answers the new way"
    ),
    "reflection_probes": (
        "probes whose answer changed, all evaluations together; below 200 read the rate with care"
    ),
}


def _figure_heads(summary: dict[str, Any]) -> Sequence[str]:
    if (before := summary.get("before")) is None:
        return "figure", "value", "what it says"
    on = f"{before['num_windows']} windows"
    if "num_probes" in before:
        on += f", {before['num_probes']} questions"
    return "figure", f"before training ({on})", "after", "what it says"


def _figure_rows(summary: dict[str, Any]) -> Iterable[Sequence[str]]:
    before = summary.get("before")

    def values(section: str, name: str, value: Any) -> Sequence[str]:
        earlier = [] if before is None else [_number(before.get(section, {}).get(name))]
        return *earlier, _number(value)

    for name, value in summary["heldout"].items():
        yield name, *values("heldout", name, value), MEANING.get(name, "")
    for section, what in (
        ("accuracy", "wordings never seen"),
        ("accuracy_seen", "wordings trained on"),
    ):
        for name, value in summary.get(section, {}).items():
            said = f"whole answers right, greedily, {what}"
            yield f"{section}.{name}", *values(section, name, value), said


def _group_rows(summary: dict[str, Any]) -> Iterable[Sequence[str]]:
    for key, label in (
        ("steps", "optimizer steps"),
        ("tokens", "tokens"),
        ("tokens_per_s", "tokens per second"),
        ("stall_frac", "share of wall time neither in steps nor in evaluation"),
        ("wait_frac", "share of wall time waiting for the other group"),
        ("rows_written_per_interval", "rows of the value table written per interval"),
    ):
        yield label, *(_number(summary[group].get(key)) for group in GROUPS)


RESTARTS = (
    "at", "group", "rank", "in interval", "cause", "seconds to stand again", "intervals done again",
    "seconds for those",
)  # fmt: skip


def _restart_rows(restarts: Sequence[dict[str, Any]]) -> Iterable[Sequence[str]]:
    for row in restarts:
        yield (
            f"{row['at_s']:.0f} s",
            row["group"],
            str(row["rank"]),
            str(row["interval"]),
            row["cause"],
            _number(row.get("restart_s")),
            str(row["replayed"]),
            _number(row.get("replay_s")),
        )


RESIZES = (
    "at", "group", "after interval", "workers before", "workers after",
    "seconds to make ready, while it trained", "seconds that the group paused",
)  # fmt: skip


def _resize_rows(resizes: Sequence[dict[str, Any]]) -> Iterable[Sequence[str]]:
    for row in resizes:
        yield (
            f"{row['at_s']:.0f} s",
            row["group"],
            str(row["interval"]),
            str(row["before"]),
            str(row["after"]),
            _number(row["prepare_s"]),
            _number(row["pause_s"]),
        )


def _answers(answers: Sequence[dict[str, str]]) -> str:
    def cell(row: dict[str, str], voice: str) -> str:
        right = any(is_answered(row[voice], answer) for answer in row["expected"].split(" or "))
        return f"<td{' class=right' if right else ''}>{escape(row[voice])}</td>"

    rows = "".join(
        f"<tr><td>{escape(row['prompt'])} …</td><td>{escape(row['expected'])}</td>"
        + "".join(cell(row, voice) for voice in ("own", "help", "memory"))
        + "</tr>"
        for row in answers
    )
    names = ("question", "expected", "data layer alone", "with memory", "memory alone")
    heads = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{heads}</tr>{rows}</table>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text as a table; what looks like a number stands on the right."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if _numeric(c) else ''}>{escape(c)}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _numeric(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("%", "").isdigit()


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.4f}"
        if abs(value) < 100
        else f"{value:,.0f}"
    )
