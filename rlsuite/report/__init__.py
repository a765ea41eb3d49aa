"""From the runs of a study to tables, statistics, one page, and videos."""

STYLE = "rlsuite.report.style"  # matplotlib's name of style.mplstyle, the look of every picture
