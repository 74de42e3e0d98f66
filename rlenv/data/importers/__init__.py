"""Importers of other data sets into ``rlenv.core.types.Session``, one module per format.

Nothing is invented (a missing profile stays null) and nothing is lost silently: the report counts every field, kept or
dropped. Consecutive messages of one speaker stay separate unless requested otherwise: an imported file shows the
source, and ``read_sessions`` joins them when it is read, so that one file gives both views.
"""

from rlenv.data.importers.annomi import import_annomi
from rlenv.data.importers.chat import ChatOptions, import_chat
from rlenv.data.importers.esconv import import_esconv
from rlenv.data.importers.report import ImportOptions, ImportReport

__all__ = [
    "ChatOptions",
    "ImportOptions",
    "ImportReport",
    "import_annomi",
    "import_chat",
    "import_esconv",
]
