"""Internal parts without knowledge of the field: components, class paths, atomic writes, compiled loops."""
