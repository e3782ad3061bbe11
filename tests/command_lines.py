"""Checks of every experiment's command line: plain refusals, and a help."""

import pytest

__all__ = ["assert_refused", "printed_help"]


def assert_refused(main, argv, message, tmp_path, capfd):
    """Assert that it ends with status 2 and the message, before any work."""
    out = tmp_path / "never"
    with pytest.raises(SystemExit) as stopped:
        main([*argv.split(), "--out", str(out)])
    assert stopped.value.code == 2 and not out.exists()
    printed = " ".join("".join(capfd.readouterr()).replace("│", " ").split())
    assert message in printed and "Traceback" not in printed


def printed_help(main, capsys):
    """Return the text of `--help`, after a check for defaults and --out."""
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "(default:" in printed and "--out" in printed
    return printed
