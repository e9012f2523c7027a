"""Self-contained HTML pages: one of a run, one that puts several runs side by side, and one to play with.

They load nothing, and the last one alone runs a script, its own. The words and the looks are in
``templates/``, which Jinja fills.
"""

from ltaug.report._explorer import write_explorer
from ltaug.report._format import PIXEL_COLUMNS as PIXEL_COLUMNS
from ltaug.report._format import RUN_COLUMNS as RUN_COLUMNS
from ltaug.report._format import columns_of as columns_of
from ltaug.report._format import results_table
from ltaug.report._pages import figure_html, write_comparison, write_fusion, write_report

__all__ = ["figure_html", "results_table", "write_comparison", "write_explorer", "write_fusion", "write_report"]
