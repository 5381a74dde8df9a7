"""What is made of figures: tables from files, and what has changed between two runs."""

from __future__ import annotations

import json

from benchmarks import report
from benchmarks.measure import compare


def document(**benchmarks):
    load = {"before": 0.1, "total": 1.0, "ours": 0.75, "wall_s": 3.0, "others": 0.25}
    return {
        "started_at": "2026-11-25T04-10-18",
        "quick": False,
        "rounds": 5,
        "machine": {"cpus": 2, "python": "3.11.7", "sqlite": "3.40.1", "kernel": "6.1"},
        "benchmarks": {
            name: {"load": load, "results": [result.to_json() for result in results]}
            for name, results in benchmarks.items()
        },
    }


def timed(*values, floor=(10.0, 10.0, 10.0), **more):
    return compare("b", "a call | p50", "µs", values, floor, floor_name="bare", **more)


def test_a_file_gives_the_tables_of_the_documentation(tmp_path, capsys):
    """Targets first, then every benchmark with what it was measured on; a later file replaces a
    benchmark of an earlier one.
    """
    old = document(
        append=[timed(50.0, 50.0, 50.0, target=2.0)],
        start=[compare("b", "import", "ms", [50.0], target=250)],
    )
    new = document(append=[timed(12.0, 15.0, 11.0, target=2.0)])
    paths = []
    for name, content in (("old", old), ("new", new)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    assert report.main([str(path) for path in paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines.count(r"| a call \| p50 | 1.2 (1.1-1.5) | 12 (11-15) µs | 10 µs (bare) | <= 2: met |")
        == 2
    )
    assert lines.count("| import |  | 50 ms |  | <= 250: met |") == 2
    assert [line for line in lines if line.startswith("### ")] == [
        "### targets",
        "### append",
        "### start",
    ]
    assert any("other work kept 0.25 CPUs busy" in line for line in lines)
    assert not any("50 (50-50) µs" in line for line in lines)


def test_a_page_keeps_its_text_and_gets_its_tables(tmp_path):
    """Only what stands between the marks of a table that there is gets replaced, as often as one
    likes.
    """
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text(
        "# Title\n\n<!-- table: append -->\nold\n<!-- end of table -->\n\nText.\n\n<!-- table: "
        "other -->\nkept\n<!-- end of table -->\n"
    )
    figures.write_text(json.dumps(document(append=[timed(12.0, 15.0, 11.0)])))
    for _ in range(2):
        assert report.main([str(figures), "--into", str(page)]) == 0
        text = page.read_text()
        assert text.startswith("# Title\n\n<!-- table: append -->\n\n2026-11-25, 5 rounds")
        assert text.endswith(
            "<!-- end of table -->\n\nText.\n\n<!-- table: other -->\nkept\n<!-- end of table -->\n"
        )
        assert "old" not in text
        assert text.count("| 1.2 (1.1-1.5) |") == 1


def test_changes_are_told_by_ratios_and_only_beyond_the_noise():
    """The machine is in both sides of a ratio; ranges that overlap prove nothing; for a rate,
    more is better.
    """

    def verdict(before, now):
        ((what, *_, change, said),) = report.changes(
            document(append=[before]), document(append=[now])
        )
        assert what == f"append: {now.what}"
        return change, said

    assert verdict(timed(10.0, 10.0, 10.0), timed(20.0, 20.0, 20.0)) == ("+100%", "WORSE")
    assert verdict(timed(20.0, 20.0, 20.0), timed(10.0, 10.0, 10.0)) == ("-50%", "better")
    assert verdict(timed(10.0, 10.0, 10.0), timed(20.0, 20.0, 20.0, floor=(20.0, 20.0, 20.0))) == (
        "+0%",
        "",
    )
    assert verdict(timed(10.0, 14.0, 10.0), timed(13.0, 13.0, 13.0)) == ("+30%", "ranges overlap")
    rates = [
        compare("b", "sync", "calls/s", [value] * 3, better="higher") for value in (100.0, 200.0)
    ]
    assert verdict(*rates) == ("+100%", "better")
    assert verdict(*reversed(rates)) == ("-50%", "WORSE")


def test_what_only_one_run_has_is_no_change():
    """A benchmark that is new, or of another floor, is compared with nothing; none failed before
    and none now is no division by zero.
    """
    errors = compare("b", "calls that failed", "errors", [0, 0, 0], target=0)
    rows = report.changes(
        document(append=[timed(1.0, 1.0, 1.0), errors]),
        document(append=[errors], new=[timed(1.0, 1.0, 1.0)]),
    )
    assert [row[0] for row in rows] == ["append: calls that failed"]
    assert rows[0][3:] == ("", "")
