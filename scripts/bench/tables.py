"""The results as text: a table for each benchmark."""

from timing import Ratio

__all__ = ["TABLES"]

Rows = dict[str, dict]


def _import(rows: Rows) -> str:
    (row,) = rows.values()
    times = row["seconds"]
    return (
        f"import fnn {times['fnn']:.2f} s, import jax, optax, chex "
        f"{times['libraries']:.2f} s: ratio {Ratio(**row['ratio'])}"
    )


def _audits(rows: Rows) -> str:
    lines = [
        "audits: the first check / a first gradient in float32, compiled; the second "
        "check / a gradient in float64 [95% interval]",
        f"{'':30}{'s':>12}{'first':>22}{'s':>14}{'second':>22}{'MB more':>9}",
    ]
    for name, row in rows.items():
        s = row["seconds"]
        first = f"{s['first check']:.1f} / {s['gradient']:.1f}"
        second = f"{s['second check']:.2f} / {s['gradient64']:.3f}"
        ratios = Ratio(**row["first"]), Ratio(**row["second"])
        lines.append(
            f"{name:30}{first:>12}{ratios[0]!s:>22}{second:>14}{ratios[1]!s:>22}"
            f"{row['megabytes']:>9.0f}{'' if row['passed'] else '  did not pass'}"
        )
    return "\n".join(lines)


def _engines(rows: Rows) -> str:
    lines = [
        "engines: manual / autodiff, median of paired ratios [95% interval]",
        f"{'':26}{'time per step':>24}{'compile time':>24}{'memory':>9}{'MB':>14}",
    ]
    for name, row in rows.items():
        step, build = Ratio(**row["step_ratio"]), Ratio(**row["compile_ratio"])
        memory = row["memory_ratio"]
        sizes = " / ".join(f"{b / 1e6:.1f}" for b in row["memory_bytes"].values())
        lines.append(f"{name:26}{step!s:>24}{build!s:>24}{memory:>9.3f}{sizes:>14}")
    return "\n".join(lines)


def _layers(rows: Rows) -> str:
    lines = [
        "layers: forward and backward, ms; autodiff / manual [95% interval]; "
        "temporary MB",
        f"{'':32}{'alone':^44}{'in a loop':^46}{'memory':^16}",
        f"{'':32}" + f"{'manual':>9}{'autodiff':>10}{'ratio':>26}" * 2
        + f"{'manual':>8}{'autodiff':>9}",
    ]  # fmt: skip
    for name, row in rows.items():
        cells = []
        for where in ("alone", "loop"):
            ms, relative = row[where]["ms"], Ratio(**row[where]["autodiff_to_manual"])
            cells.append(f"{ms['manual']:>9.2f}{ms['autodiff']:>10.2f}{relative!s:>26}")
        memory = [row["memory_bytes"][e] / 1e6 for e in ("manual", "autodiff")]
        cells.append(f"{memory[0]:>8.1f}{memory[1]:>9.1f}")
        lines.append(f"{name:32}{''.join(cells)}")
    return "\n".join(lines)


def _floor(rows: Rows) -> str:
    lines = []
    for name, row in rows.items():
        lines += [
            f"floor: {name}, a step of fnn.fit {row['step_ms']:.2f} ms, its products "
            f"and update alone {row['floor_ms']:.2f} ms: ratio "
            f"{Ratio(**row['step_to_floor'])}"
        ]
        for part, figures in row["parts"].items():
            rate = figures["gflop_per_s"]
            shown = "" if rate is None else f"{rate:>8.0f} GFLOP/s"
            lines.append(f"  {part:16}{figures['ms']:>8.3f} ms{shown}")
    return "\n".join(lines)


def _plans(rows: Rows) -> str:
    lines = [
        "plans: s to plan; time to compile, against autodiff; a step in each mode, "
        "against the plain one; temporary MB; ensembles of 8, against one alone",
    ]
    for name, row in rows.items():
        build = Ratio(**row["compile_ratio"])
        lines.append(f"{name}: planned in {row['plan_s']:.3f} s, compiled in {build}")
        for mode, part in row["modes"].items():
            ms, relative = part["ms"], str(Ratio(**part["to_plain"]))
            size = part["memory_bytes"] / 1e6
            lines.append(f"  {mode:24}{ms:>8.2f} ms{relative:>28}{size:>8.1f} MB")
        size = row["autodiff_memory_bytes"] / 1e6
        lines.append(f"  {'autodiff, plain':63}{size:>7.1f} MB")
        for way, part in row["ensemble"].items():
            ms, relative = part["ms"], str(Ratio(**part["to_one"]))
            lines.append(f"  {way:24}{ms:>8.2f} ms{relative:>28}")
    return "\n".join(lines)


def _epochs(rows: Rows) -> str:
    lines = []
    for name, row in rows.items():
        title = f"epochs: {name}, {row['images']:,} images"
        lines.append(f"{title:54}{'s / epoch':>10}{'× fnn [95% interval]':>28}")
        for peer, figures in row["peers"].items():
            relative = str(Ratio(**figures["to_fnn"]))
            note = ""
            if figures["share"] < 1:
                note = f"  from {figures['share']:.1%} of an epoch"
            seconds = figures["seconds"]
            lines.append(f"  {peer:52}{seconds:>10.3f}{relative:>28}{note}")
        for peer, reason in row["skipped"].items():
            lines.append(f"  {peer:52}skipped: {reason}")
    return "\n".join(lines)


def _sweeps(rows: Rows) -> str:
    lines = [
        "64 trainings: fit / sweep [95% interval]; each with its compilation; the same "
        "where fit compiles for each rate"
    ]
    for name, row in rows.items():
        lines.append(
            f"{name:12}{row['seconds']['sweep']:>8.2f} s{Ratio(**row['ratio'])!s:>26}"
            f"{row['ratio with compilation']:>8.2f}"
            f"{row['ratio with compilation, optax']:>8.2f}   losses differ by at most "
            f"{row['largest difference of losses']:.0e}"
        )
    return "\n".join(lines)


def _runs(rows: Rows) -> str:
    lines = ["whole runs, as a multiple of a plain run on arrays [95% interval]"]
    for name, row in rows.items():
        lines.append(
            f"{name}, {row['epochs']} epochs: {row['seconds']['arrays']:.2f} s"
        )
        for variant, relative in row["to_arrays"].items():
            lines.append(f"  {variant:26}{Ratio(**relative)!s:>26}")
    return "\n".join(lines)


def _passes(rows: Rows) -> str:
    lines = ["passes: ms, × a plain gradient [95% interval]; temporary MB, × likewise"]
    for name, row in rows.items():
        lines.append(name)
        for what, ms in row["ms"].items():
            relative = str(Ratio(**row["to_gradient"][what]))
            size = row["memory_bytes"][what] / 1e6
            more = row["memory_to_gradient"][what]
            lines.append(f"  {what:26}{ms:>9.2f}{relative:>28}{size:>9.1f}{more:>7.2f}")
    return "\n".join(lines)


def _anchors(rows: Rows) -> str:
    lines = ["single examples, elsewhere: ms, × that library's plain gradient"]
    for name, row in rows.items():
        lines.append(name)
        for way, ms in row["ms"].items():
            own = row["to_own_gradient"].get(way)
            relative = str(Ratio(**own)) if own else ""
            lines.append(f"  {way:28}{ms:>9.2f}{relative:>28}")
        lines += [f"  {way:28}  {why}" for way, why in row["skipped"].items()]
    return "\n".join(lines)


def _first_epoch(rows: Rows) -> str:
    lines = [
        "first epoch: overhead in seconds of the processor and of the clock, and × "
        "Equinox's [95% interval]; the parts, without what is below 0.1 s"
    ]
    for name, row in rows.items():
        candidates = {n: c for n, c in row.items() if n != "machine"}
        lines.append(name)
        for candidate, found in candidates.items():
            relative = str(Ratio(**found["to Equinox"]))
            clock = str(Ratio(**found["clock to Equinox"]))
            lines.append(
                f"  {candidate:22}{found['processor']:>7.2f}{relative:>24}"
                f"{found['clock']:>8.2f}{clock:>24}"
            )
            lines += [f"      {s:6.2f}  {part}" for part, s in found["parts"].items()]
    return "\n".join(lines)


def _scale(rows: Rows) -> str:
    lines = [
        "scale: an epoch, per example and per multiply-add; what a first epoch takes "
        "longer; the peak memory of the process so far",
        f"{'':24}{'parameters':>14}{'s':>9}{'µs / example':>14}{'G / s':>8}"
        f"{'first, s':>10}{'MB':>8}",
    ]
    for name, row in rows.items():
        lines.append(name)
        for size, point in row["points"].items():
            per_example = point["seconds"] / point["examples"] * 1e6
            rate = point["multiply_adds"] / point["seconds"] / 1e9
            lines.append(
                f"{int(size):>24,}{point['parameters']:>14,}{point['seconds']:>9.3f}"
                f"{per_example:>14.2f}{rate:>8.2f}{point['first']:>10.2f}"
                f"{point['megabytes']:>8.0f}"
            )
    return "\n".join(lines)


TABLES = {
    "import": _import,
    "audits": _audits,
    "engines": _engines,
    "layers": _layers,
    "floor": _floor,
    "plans": _plans,
    "runs": _runs,
    "sweeps": _sweeps,
    "epochs": _epochs,
    "first_epoch": _first_epoch,
    "zoo": _epochs,
    "per_example": _passes,
    "anchors": _anchors,
    "curvature": _passes,
    "scale": _scale,
}
