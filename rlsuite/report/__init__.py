"""From the runs of a study to tables, statistics, one page, and videos."""
