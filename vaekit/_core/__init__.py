"""Internal parts that know nothing of the field: components, class paths, atomic writes, compiled loops."""
