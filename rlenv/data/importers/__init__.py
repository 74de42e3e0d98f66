"""Other people's conversations brought into the form of ``rlenv.core.types.Session``: a file for each form.

Nothing is invented (a profile that is not there stays null) and nothing is lost in silence: the report counts every
field, kept or dropped. Neighbouring messages of one speaker stay as they are unless asked: an import shows the source,
and whoever reads it (``read_sessions``) joins them then, so that both views can be had from one file.
"""

from rlenv.data.importers.annomi import import_annomi
from rlenv.data.importers.esconv import import_esconv
from rlenv.data.importers.neutral import import_jsonl
from rlenv.data.importers.report import ImportOptions, ImportReport

__all__ = ["ImportOptions", "ImportReport", "import_annomi", "import_esconv", "import_jsonl"]
