from models.conftest import seed  # noqa: F401  (each test starts from the same seed)
