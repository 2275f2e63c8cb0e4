"""The adapter of each import format, loaded by the table `import_formats`."""

from importlib import import_module

from tailorbird.events.adapters.batch import FormatAdapter
from tailorbird.events.adapters.record import Convert
from tailorbird.import_formats import IMPORT_FORMATS

FORMATS: dict[str, FormatAdapter] = {
    import_format.name: import_module(f"tailorbird.events.adapters.{import_format.module}").ADAPTER
    for import_format in IMPORT_FORMATS
}
CONVERTERS: dict[str, Convert] = {
    name: adapter.convert for name, adapter in FORMATS.items() if adapter.convert is not None
}
