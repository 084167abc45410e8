from __future__ import annotations

from pathlib import Path

from modelyard.launcher.news import News


def test_events_are_told_once_and_other_lines_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("INFO    services.worker  from an earlier life\n")
    news = News(log)
    assert list(news.read()) == []
    with log.open("a") as sink:
        sink.write(
            "INFO    services.worker.lifecycle  job_1 attempt 1 starts\nTraceback (most recent call last):\n"
        )
        sink.write(
            "WARNING shared.sweeper  sweeping waits\nINFO    services.worker  listening as w\nERROR  a.b  half a"
        )
        sink.flush()
        assert list(news.read()) == [("job_1 attempt 1 starts", "info"), ("sweeping waits", "warn")]
        sink.write(" line\n")
    assert list(news.read()) == [("half a line", "bad")]
    assert list(news.read()) == []


def test_a_rotated_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("INFO    a  old\n" * 10)
    news = News(log)
    log.write_text("INFO    a  new\n")
    assert list(news.read()) == [("new", "info")]


def test_a_log_that_is_not_there_yet_is_quiet(tmp_path: Path) -> None:
    assert list(News(tmp_path / "none.log").read()) == []
